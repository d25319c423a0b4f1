"""Jobs that tell what their config looks like to them. In any context."""

from pyhocon import ConfigTree

from sparkjobserver.api import SparkJob


def described(value):
    """Returns a config with the name of its class beside each value. dict.items: that of a ConfigTree fails at an empty key."""
    if isinstance(value, dict):
        return {type(value).__name__: {key: described(each) for key, each in dict.items(value)}}
    return [type(value).__name__, [described(each) for each in value] if isinstance(value, list) else value]


class Describes(SparkJob):
    """Result: the config, as described() shows it."""

    def validate(self, context, runtime, config):
        return config

    def run_job(self, context, runtime, data):
        return described(data)


class Asks(SparkJob):
    """Result: what each getter of a ConfigTree gives. Config: a, b.c, "d.e", l, t, f."""

    def validate(self, context, runtime, config):
        try:
            config['not.there']
        except KeyError as missing:
            absent = f'{type(missing).__name__}: {missing.args[0]}'
        return {'get_int': config.get_int('a'), 'get_string': config.get_string('a'), 'path': config['b.c'],
                'get_config': type(config.get_config('b')) is ConfigTree, 'quoted': config['"d.e"'],
                'get_list': config.get_list('l'), 'get_bool': config.get_bool('t'), 'get_float': config.get_float('f'),
                'default': config.get('not.there', 7), 'in': ['b.c' in config, 'b.d' in config], 'absent': absent}

    def run_job(self, context, runtime, data):
        return data
