//! Whom this node speaks BGP with: established TCP sockets with port 179 at either end (sock_diag(7)). Blocking.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::ControlFlow;

use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::KernelError;
use super::dump::dump;
use super::socket::Socket;
use super::wire::{Encoder, NLM_F_DUMP, NLM_F_REQUEST};
use crate::model::Family;

/// BGP's port (RFC 4271).
const BGP: u16 = 179;
/// SOCK_DIAG_BY_FAMILY (include/uapi/linux/sock_diag.h)
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// IPPROTO_TCP
const TCP: u8 = 6;
/// The bit of TCP_ESTABLISHED (include/net/tcp_states.h).
const ESTABLISHED: u32 = 1 << 1;
/// Length of `struct inet_diag_req_v2`, whose socket id stays zero: any.
const REQUEST: usize = 56;

/// The far ends of established BGP sessions of this network namespace, whoever runs them. A session within the node
/// has both its ends here.
///
/// # Errors
/// [`KernelError`]: no socket, or a kernel without INET_DIAG.
pub fn bgp_peers() -> Result<BTreeSet<IpAddr>, KernelError> {
    let socket = Socket::open_to(NETLINK_SOCK_DIAG)?;
    let mut peers = BTreeSet::new();
    for family in Family::ALL {
        let mut header = [0; REQUEST];
        let (asked, _) = header.split_at_mut(8);
        let [s0, s1, s2, s3] = ESTABLISHED.to_ne_bytes();
        asked.copy_from_slice(&[family.af(), TCP, 0, 0, s0, s1, s2, s3]);
        let mut request = Encoder::default();
        request.begin(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 1, &header);
        dump(&socket, request, "dump TCP sockets", &mut |_, payload| {
            peers.extend(peer(payload));
            ControlFlow::Continue(())
        })?;
    }
    Ok(peers)
}

/// The far end of a BGP session, from a `struct inet_diag_msg`: family, state, timer, retransmissions, then the socket
/// id: ports in network byte order, source and destination of 16 bytes each.
fn peer(payload: &[u8]) -> Option<IpAddr> {
    let port = |at: usize| Some(u16::from_be_bytes(*payload.get(at..)?.first_chunk()?));
    if port(4)? != BGP && port(6)? != BGP {
        return None;
    }
    let address: [u8; 16] = *payload.get(24..)?.first_chunk()?;
    let [a, b, c, d, ..] = address;
    let ipv4 = payload.first() == Some(&Family::Ipv4.af());
    let address = if ipv4 { Ipv4Addr::new(a, b, c, d).into() } else { IpAddr::V6(Ipv6Addr::from(address)) };
    Some(address.to_canonical())
}
