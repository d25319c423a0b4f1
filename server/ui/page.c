#include "ui/page.h"

#ifndef STOKER_VERSION
#define STOKER_VERSION "development"
#endif

const char stk_ui_page[] =
    "<!DOCTYPE html>\n"
    "<html lang=\"en\">\n"
    "<head>\n"
    "<meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width\">\n"
    "<title>Stoker</title>\n"
    "<style>\n"
    "body { font: 16px/1.5 system-ui, sans-serif; max-width: 44em; margin: 3em auto; padding: 0 1em; }\n"
    "code { background: #8882; padding: .1em .3em; }\n"
    ":root { color-scheme: light dark; }\n"
    "</style>\n"
    "</head>\n"
    "<body>\n"
    "<h1>Stoker " STOKER_VERSION "</h1>\n"
    "<p>This is a job server for Apache Spark. It keeps Spark contexts warm, stores the Python code that you upload, "
    "and runs\n"
    "it on request. It speaks the REST interface of Spark Job Server.</p>\n"
    "<ul>\n"
    "<li><a href=\"contexts\">/contexts</a>: the Spark applications that are up</li>\n"
    "<li><a href=\"jobs\">/jobs</a>: what ran last, and what runs now</li>\n"
    "<li><a href=\"binaries\">/binaries</a>: the uploaded code</li>\n"
    "<li><a href=\"healthz\">/healthz</a>: is the server well</li>\n"
    "</ul>\n"
    "<p>To run a job: <code>POST /binaries/NAME</code> with an egg, wheel or zip, <code>POST /contexts/NAME</code>, "
    "then\n"
    "<code>POST /jobs?appName=NAME&amp;classPath=CLASS&amp;context=NAME&amp;sync=true</code>.</p>\n"
    "</body>\n"
    "</html>\n";

const size_t stk_ui_page_len = sizeof stk_ui_page - 1;
