//! The ring of events that the programs fill while somebody listens.

use std::net::{IpAddr, SocketAddr};

use aya::maps::{MapData, RingBuf};
use backtrail_ebpf_common::maps;
use backtrail_ebpf_common::packet::Unparsed;

use super::layout;

/// Something that happened to a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowEvent {
    /// What happened.
    pub kind: FlowEventKind,
    /// The flow; `None` where the packet has no tuple.
    pub flow: Option<EventFlow>,
    /// Interface that the packet was seen on.
    pub ifindex: u32,
    /// Interface that replies belong to; `None`: not known.
    pub path_ifindex: Option<u32>,
}

/// The flow of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventFlow {
    /// IP protocol number: 6, 17, 132, 1 or 58.
    pub protocol: u8,
    /// Client address and port (for echo: the identifier).
    pub client: SocketAddr,
    /// Service address and port (for echo: 0).
    pub service: SocketAddr,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowEventKind {
    /// A flow was learned.
    Learned,
    /// A flow's first packet was steered.
    Steered,
    /// A packet found its path down.
    PathDown,
    /// A packet has no tuple, for this reason (the counter's name).
    Unparsable(&'static str),
}

/// Takes the next event out of the ring; what this version does not know is left out.
pub(super) fn next(ring: &mut RingBuf<MapData>) -> Option<FlowEvent> {
    loop {
        let item = ring.next()?;
        if let Some(event) = parse(&item) {
            return Some(event);
        }
    }
}

/// Reads a `maps::Event`.
fn parse(bytes: &[u8]) -> Option<FlowEvent> {
    let mut rest = bytes;
    let (kind, family) = (u16::from_ne_bytes(take(&mut rest)?), u16::from_ne_bytes(take(&mut rest)?));
    let mut number = || take(&mut rest).map(u32::from_ne_bytes);
    let (proto, ifindex, path_ifindex) = (number()?, number()?, number()?);
    let (client, service): ([u8; 16], [u8; 16]) = (take(&mut rest)?, take(&mut rest)?);
    let client_port = u16::from_ne_bytes(take(&mut rest)?);
    let service_port = u16::from_ne_bytes(take(&mut rest)?);
    let end = |address, port| {
        layout::address(address, u32::from(family)).map(|address: IpAddr| SocketAddr::new(address, port))
    };
    let kind = match kind {
        maps::EVENT_LEARNED => FlowEventKind::Learned,
        maps::EVENT_STEERED => FlowEventKind::Steered,
        maps::EVENT_PATH_DOWN => FlowEventKind::PathDown,
        maps::EVENT_UNPARSABLE => FlowEventKind::Unparsable(unparsed(proto)?),
        _ => return None,
    };
    let flow = end(client, client_port).zip(end(service, service_port)).map(|(client, service)| EventFlow {
        protocol: u8::try_from(proto).unwrap_or_default(),
        client,
        service,
    });
    Some(FlowEvent { kind, flow, ifindex, path_ifindex: (path_ifindex != 0).then_some(path_ifindex) })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

/// The counter of an [`Unparsed`] packet.
fn unparsed(why: u32) -> Option<&'static str> {
    let all = [
        (Unparsed::Truncated, "truncated"),
        (Unparsed::Malformed, "malformed"),
        (Unparsed::TooDeep, "too_deep"),
    ];
    all.into_iter().find(|(reason, _)| *reason as u32 == why).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(kind: u16, family: u16, proto: u32) -> Vec<u8> {
        let mut bytes = [kind.to_ne_bytes(), family.to_ne_bytes()].concat();
        for number in [proto, 3, 4] {
            bytes.extend(number.to_ne_bytes());
        }
        bytes.extend([[1; 16], [2; 16]].concat());
        bytes.extend([7_u16.to_ne_bytes(), 80_u16.to_ne_bytes()].concat());
        assert_eq!(bytes.len(), size_of::<maps::Event>());
        bytes
    }

    #[test]
    fn events_are_read_as_the_programs_write_them() {
        let event = parse(&bytes(maps::EVENT_STEERED, 4, 6)).expect("an event");
        assert_eq!((event.kind, event.ifindex, event.path_ifindex), (FlowEventKind::Steered, 3, Some(4)));
        let flow = event.flow.expect("a flow");
        assert_eq!(flow.protocol, 6);
        assert_eq!(
            (flow.client, flow.service),
            ("1.1.1.1:7".parse().unwrap(), "2.2.2.2:80".parse().unwrap())
        );
        let event = parse(&bytes(maps::EVENT_UNPARSABLE, 0, Unparsed::TooDeep as u32)).expect("an event");
        assert_eq!((event.kind, event.flow), (FlowEventKind::Unparsable("too_deep"), None));
    }

    #[test]
    fn what_is_short_or_unknown_is_left_out() {
        let whole = bytes(maps::EVENT_LEARNED, 6, 17);
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), None);
        }
        assert_eq!(parse(&bytes(99, 4, 6)), None);
    }
}
