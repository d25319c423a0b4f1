/* The page at "/". */
#ifndef STOKER_UI_PAGE_H
#define STOKER_UI_PAGE_H

#include <stddef.h>

extern const char stk_ui_page[]; /* HTML, UTF-8 */
extern const size_t stk_ui_page_len;

#endif
