//! For debugging: log statements of the programs, in the agent's log. Only with the feature `bpf-log`, and an object that
//! has them (`cargo xtask ebpf --log FILE`), which `BACKTRAIL_BPF_OBJECT` names.

use std::os::fd::AsFd as _;

use aya::Ebpf;
use aya_log::EbpfLogger;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The object that the environment names, kept for as long as the agent runs.
pub(super) fn object() -> Option<&'static [u8]> {
    let path = std::env::var_os("BACKTRAIL_BPF_OBJECT")?;
    match std::fs::read(&path) {
        Ok(bytes) => Some(bytes.leak()),
        Err(error) => {
            tracing::error!(%error, ?path, "BACKTRAIL_BPF_OBJECT is not read");
            None
        }
    }
}

/// Hands on what the programs say, on a thread of its own, for as long as the agent runs.
pub(super) fn start(ebpf: &mut Ebpf) {
    let mut logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => return tracing::warn!(%error, "the programs have no log statements"),
    };
    std::thread::spawn(move || {
        loop {
            let mut ready = [PollFd::new(logger.as_fd(), PollFlags::POLLIN)];
            if let Err(error) = poll(&mut ready, PollTimeout::NONE)
                && error != nix::errno::Errno::EINTR
            {
                return tracing::error!(%error, "the log of the programs ends");
            }
            logger.flush();
        }
    });
}
