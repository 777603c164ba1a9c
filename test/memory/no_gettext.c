/*-------------------------------------------------------------------------
 *
 * no_gettext.c
 *	  Message catalogs that are never there, preloaded next to libasan.
 *
 * AddressSanitizer's runtime wraps textdomain(); preloaded into a program that
 * calls bindtextdomain() as PostgreSQL does, some versions of it wait for
 * ever for a lock of the C library's.  The messages are English here anyway.
 *
 *-------------------------------------------------------------------------
 */
#include <libintl.h>

#undef bindtextdomain
#undef textdomain
#undef bind_textdomain_codeset

char *
bindtextdomain(const char *domain, const char *directory)
{
	return (char *) directory;
}

char *
textdomain(const char *domain)
{
	return (char *) domain;
}

char *
bind_textdomain_codeset(const char *domain, const char *codeset)
{
	return (char *) codeset;
}
