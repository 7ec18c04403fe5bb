/*
 * Cancellation by SIGINT. The flag is the only mutable state of the process as a whole: a signal
 * handler has no argument to find anything else by.
 */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "host/host.h"

static atomic_int cancel_flag;

static void on_interrupt(int signal_number) {
    (void)signal_number;
    if (atomic_exchange_explicit(&cancel_flag, 1, memory_order_relaxed) != 0) {
        _exit(130); /* 128 + SIGINT, as shells report it */
    }
}

pico_status pico_cancel_install(pico_error *err) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_interrupt;
    (void)sigemptyset(&action.sa_mask);
    if (sigaction(SIGINT, &action, NULL) != 0) {
        return pico_fail(err, PICO_E_IO, "cannot handle SIGINT: %s", strerror(errno));
    }
    return PICO_OK;
}

int pico_cancel_requested(void) {
    return atomic_load_explicit(&cancel_flag, memory_order_relaxed);
}

void pico_cancel_clear(void) {
    atomic_store_explicit(&cancel_flag, 0, memory_order_relaxed);
}

void pico_cancel_request(void) {
    on_interrupt(SIGINT);
}
