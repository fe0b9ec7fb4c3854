//! A netlink socket with what every user of it here wants switched on.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::sys::socket::{setsockopt, sockopt};

use super::KernelError;
use super::wire::Messages;

/// Room for the answers to a whole send, and for notifications that the engine is late to read.
const RECEIVE_BUFFER: usize = 8 << 20;
/// The kernel fills at most 32 KiB of a dump into one datagram; no other message is longer than 64 KiB.
const DATAGRAM: usize = 64 << 10;

/// A bound socket. Answers are short (CAP_ACK) and explained (EXT_ACK).
#[derive(Debug)]
pub(super) struct Socket {
    inner: netlink_sys::Socket,
    port: u32,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace. It needs no privilege to read.
    pub(super) fn open() -> Result<Self, KernelError> {
        Self::open_to(NETLINK_ROUTE)
    }

    /// The same to another of the kernel's parts, NETLINK_*.
    pub(super) fn open_to(protocol: isize) -> Result<Self, KernelError> {
        let failed = |doing| move |source| KernelError::Socket { doing, source };
        let mut inner = netlink_sys::Socket::new(protocol).map_err(failed("open"))?;
        let port = inner.bind_auto().map_err(failed("bind"))?.port_number();
        inner.set_cap_ack(true).map_err(failed("set NETLINK_CAP_ACK"))?;
        inner.set_ext_ack(true).map_err(failed("set NETLINK_EXT_ACK"))?;
        inner.set_netlink_get_strict_chk(true).map_err(failed("set NETLINK_GET_STRICT_CHK"))?;
        // Beyond rmem_max only with CAP_NET_ADMIN; without it nothing can be programmed anyway.
        if setsockopt(&inner, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            let wanted = i32::try_from(RECEIVE_BUFFER).unwrap_or(i32::MAX);
            inner.set_rx_buf_sz(wanted).map_err(failed("set SO_RCVBUF"))?;
        }
        Ok(Self { inner, port })
    }

    /// The port id, which notifications carry when this socket caused them.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Hands one datagram of messages to the kernel, which has acted on all of them when this returns.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match self.inner.send_to(bytes, &SocketAddr::new(0, 0), 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(drop),
            }
        }
    }

    /// Receives one datagram of the kernel's into `buffer`.
    pub(super) fn receive<'a>(&self, buffer: &'a mut Vec<u8>, flags: i32) -> io::Result<Messages<'a>> {
        loop {
            buffer.clear();
            buffer.reserve(DATAGRAM);
            match self.inner.recv_from(buffer, flags | libc::MSG_TRUNC) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok((len, _)) if len > buffer.len() => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a message longer than 64 KiB"));
                }
                Ok(_) => return Ok(Messages(buffer)),
            }
        }
    }

    /// Makes reads return WouldBlock instead of waiting.
    pub(super) fn set_non_blocking(&self) -> io::Result<()> {
        self.inner.set_non_blocking(true)
    }

    /// Joins (or leaves) a multicast group, RTNLGRP_*.
    pub(super) fn member(&self, group: u32, joined: bool) -> io::Result<()> {
        if joined { self.inner.add_membership(group) } else { self.inner.drop_membership(group) }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}
