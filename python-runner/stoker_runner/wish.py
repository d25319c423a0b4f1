"""What a job asks of its result: the form, and how long it may be."""
import json
from typing import NamedTuple, Optional

from . import sink, tables
from .failure import JobError


class Wish(NamedTuple):
    """form: 'json', 'csv', 'parquet' or 'arrow'; None: nobody has asked. limit: sink.Limit."""
    form: Optional[str]
    limit: sink.Limit


def read(config_json_text, spec):
    """The Wish of a job's config (key `stoker`, docs/dialects/native.md), within what spec.json allows.

    Raises JobError CONFIG_INVALID."""
    limit = sink.Limit(spec['max_result'], {'context': sink.CONTEXT}.get(spec.get('max_result_by'), sink.SERVER))
    asked = json.loads(config_json_text).get('stoker') if '"stoker"' in config_json_text else None
    if not isinstance(asked, dict):
        return Wish(None, limit)
    form, most = asked.get('result-format'), asked.get('max-result')
    if form is not None and form not in tables.ENDINGS:
        raise JobError('CONFIG_INVALID', f"stoker.result-format must be one of {', '.join(tables.ENDINGS)}, not {form!r}")
    if most is not None and (type(most) is not int or most < 1):
        raise JobError('CONFIG_INVALID', f'stoker.max-result must be a number of bytes, not {most!r}')
    return Wish(form, limit if most is None or most >= limit else sink.Limit(most, sink.JOB))


def form_of(wish, job):
    """The form of a job's result: what was asked for with it, else its attribute result_format, else None.

    Raises JobError RESULT_FORMAT for an attribute that is no form."""
    if wish.form:
        return wish.form
    form = getattr(job, 'result_format', None)
    if form is not None and (not isinstance(form, str) or form not in tables.ENDINGS):
        raise JobError('RESULT_FORMAT', f"result_format of the job must be one of {', '.join(tables.ENDINGS)}, not {form!r}")
    return form
