//! Hand-made frames of one TCP connection: 203.0.113.7:40000 and its IPv6 twin ask a service on port 80.

use std::net::{Ipv4Addr, Ipv6Addr};

const CLIENT_PORT: u16 = 40_000;
const SERVICE_PORT: u16 = 80;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    Client,
    Service,
    /// Another port of the service: nobody asked it.
    Stranger,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// The first packet of the connection.
pub(crate) fn opener(family: Family, macs: [[u8; 6]; 2]) -> Vec<u8> {
    frame(family, From::Client, SYN, macs)
}

/// A later packet; `macs` are destination and source.
pub(crate) fn packet(family: Family, from: From, macs: [[u8; 6]; 2]) -> Vec<u8> {
    frame(family, from, ACK, macs)
}

fn frame(family: Family, from: From, flags: u8, macs: [[u8; 6]; 2]) -> Vec<u8> {
    let (source, destination) = match from {
        From::Client => (CLIENT_PORT, SERVICE_PORT),
        From::Service => (SERVICE_PORT, CLIENT_PORT),
        From::Stranger => (SERVICE_PORT + 1, CLIENT_PORT),
    };
    let mut tcp = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    tcp.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    let mut out = macs.concat();
    let reply = from != From::Client;
    match family {
        Family::V4 => ipv4(&mut out, reply),
        Family::V6 => ipv6(&mut out, reply),
    }
    out.extend(tcp);
    out
}

fn ipv4(out: &mut Vec<u8>, reply: bool) {
    let mut ends = [Ipv4Addr::new(203, 0, 113, 7), Ipv4Addr::new(198, 51, 100, 10)];
    if reply {
        ends.reverse();
    }
    let mut header = vec![0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0];
    header.extend(ends.iter().flat_map(Ipv4Addr::octets));
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let [high, low] = (!u16::try_from(folded).unwrap_or(0)).to_be_bytes();
    header[10] = high;
    header[11] = low;
    out.extend([0x08, 0x00]);
    out.extend(header);
}

fn ipv6(out: &mut Vec<u8>, reply: bool) {
    let mut ends = [
        Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 7),
        Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 10),
    ];
    if reply {
        ends.reverse();
    }
    out.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
    out.extend(ends.iter().flat_map(Ipv6Addr::octets));
}
