//! Ctrl-C ends a lab as any error does: by dropping it.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static SIGNALS: AtomicU32 = AtomicU32::new(0);
/// One key press may come twice: from the terminal, and passed on by sudo or timeout.
const PATIENCE: u32 = 4;

#[expect(unsafe_code, reason = "the only way to end a program from within a signal handler")]
extern "C" fn interrupt(_signal: i32) {
    if SIGNALS.fetch_add(1, Ordering::Relaxed) >= PATIENCE {
        // SAFETY: async-signal-safe, and it does not return.
        unsafe { nix::libc::_exit(130) };
    }
}

/// From now on a SIGINT, SIGTERM or SIGHUP makes every wait of this crate fail, so that the caller returns and its lab is
/// dropped; the fifth one ends the program at once. Programs that are started are not affected.
///
/// # Errors
/// When the kernel refuses a handler.
#[expect(
    unsafe_code,
    reason = "a handler, unlike a blocked signal, is not inherited by the programs of the lab"
)]
pub fn catch_interrupts() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(interrupt), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only counts in an atomic and exits, both async-signal-safe.
        unsafe { sigaction(signal, &action) }.with_context(|| format!("cannot catch {signal}"))?;
    }
    Ok(())
}

/// Whether such a signal has come.
#[must_use]
pub fn interrupted() -> bool {
    SIGNALS.load(Ordering::Relaxed) > 0
}
