/* Removing folders. Blocking; any thread but the loop. */
#ifndef STOKER_TREE_H
#define STOKER_TREE_H

/*
 * Removes the file or folder `name` (a path relative to the directory dir_fd) with everything below it; links are removed, not
 * followed. 0, also when there is none; -1 when something was left.
 */
int stk_remove_tree(int dir_fd, const char *name);

#endif
