//! Route notifications, counted: what shows the end of a phase where the number of routes does not. A listener costs the kernel
//! a quarter of its rate, for all contenders alike.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::Namespace;
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::fib::{DEADLINE, Seen};
use super::netlink::{RECEIVE, messages};

// include/uapi/linux/rtnetlink.h
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
/// For the notifications of a whole phase, however late they are read.
const BUFFER: usize = 1 << 30;
const TICK: Duration = Duration::from_millis(20);

/// A listener in a namespace, from when it is made.
pub(crate) struct Listener(Socket);

impl Listener {
    pub(crate) fn new(namespace: &Namespace, v6: bool) -> Result<Self> {
        namespace.enter(|| {
            let mut socket = Socket::new(NETLINK_ROUTE).context("cannot open a netlink socket")?;
            setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).context("cannot enlarge a receive buffer")?;
            let tick = TimeVal::new(0, i64::try_from(TICK.as_micros())?);
            setsockopt(&socket, sockopt::ReceiveTimeout, &tick)?;
            socket.bind_auto()?;
            socket.add_membership(if v6 { RTNLGRP_IPV6_ROUTE } else { RTNLGRP_IPV4_ROUTE })?;
            Ok(Self(socket))
        })?
    }

    /// Waits for so many changes of routes; gives up when `failed` is set.
    pub(crate) fn watch(
        &self,
        what: &str,
        count: usize,
        began: Instant,
        failed: &AtomicBool,
    ) -> Result<Seen> {
        let (mut seen, mut first, mut told) = (0, None, began);
        loop {
            let mut answer = Vec::with_capacity(RECEIVE);
            match self.0.recv_from(&mut answer, 0) {
                Ok(_) => {
                    let changes =
                        messages(&answer).filter(|kind| matches!(*kind, RTM_NEWROUTE | RTM_DELROUTE));
                    seen += changes.count();
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error).context("notifications were lost"),
            }
            let elapsed = began.elapsed();
            if seen > 0 {
                first.get_or_insert(elapsed);
            }
            if seen >= count {
                return Ok(Seen { first: first.unwrap_or(elapsed), last: elapsed });
            }
            ensure!(!failed.load(Ordering::Relaxed), "{what} failed");
            ensure!(!backtrail_lab::interrupted(), "interrupted");
            ensure!(
                elapsed < DEADLINE,
                "{what}: only {seen} of {count} changes after {} s",
                elapsed.as_secs()
            );
            if told.elapsed() > Duration::from_secs(5) {
                told = Instant::now();
                eprintln!("  {what}: {seen} of {count} changes after {:.0} s", elapsed.as_secs_f64());
            }
        }
    }
}
