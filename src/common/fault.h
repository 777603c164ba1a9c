/*-------------------------------------------------------------------------
 *
 * fault.h
 *	  Fault points: named places where a test makes something go wrong.
 *
 * Compiled in only with -DOUTBOX_FAULT_POINTS (what "make check" builds); in
 * a release build OUTBOX_FAULT() is nothing at all.
 *
 * A test sets pg_outbox.fault to a comma-separated list of name=action:
 *
 *	  error		raise an error (XX000) at the point
 *	  kill		the process ends at once, as by kill -9
 *	  exit		the process ends through _exit(1)
 *	  wait		the process waits at the point, processing interrupts, until
 *				the setting no longer says so
 *	  full		raise the error of a full disk (53100) at the point
 *	  refuse	what the point asks for is refused (OUTBOX_FAULT_REFUSES only)
 *	  overflow	the process writes behind a block of memory, for "make
 *				check-memory" to prove that it would notice
 *	  once-X	action X, but only for the first hit of this process
 *
 * Who kills or ends a process, or has it wait, says so in the server's log.
 *
 * The point "now" is hit where the setting is made, at once; the actions for it
 * are "overflow" and "undefined", an operation without a defined result.
 *
 * Workers re-read the setting with the configuration file (ALTER SYSTEM SET
 * and pg_reload_conf()).
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_FAULT_H
#define OUTBOX_FAULT_H

#ifdef OUTBOX_FAULT_POINTS
extern void outbox_fault_hit(const char *name);
extern bool outbox_fault_refuses(const char *name);
#define OUTBOX_FAULT(name) outbox_fault_hit(name)
#define OUTBOX_FAULT_REFUSES(name) outbox_fault_refuses(name)
#else
#define OUTBOX_FAULT(name) ((void) 0)
#define OUTBOX_FAULT_REFUSES(name) false
#endif

extern void outbox_fault_init(void);

#endif							/* OUTBOX_FAULT_H */
