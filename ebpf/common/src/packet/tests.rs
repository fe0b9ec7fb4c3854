//! Properties of the parser: what it finds is what was written, and no bytes make it panic.

use proptest::collection::vec;
use proptest::prelude::*;

use super::fast::{Ethernet, Plain4, Plain6};
use super::*;

#[path = "../../fuzz/oracle.rs"]
mod oracle;

use self::oracle::Slice;

const ETHERNET: Link = Link { length: 14, ethertype: 0, tagged: false };

/// A flow's packet, and the headers around it.
#[derive(Debug, Clone)]
struct Packet {
    v6: bool,
    source: [u8; 16],
    destination: [u8; 16],
    ports: (u16, u16),
    proto: u8,
    flags: u8,
    /// Words of IPv4 options, or IPv6 destination options headers.
    extra: u8,
    hops: u8,
}

prop_compose! {
    fn packets()(
        v6: bool,
        source: [u8; 16],
        destination: [u8; 16],
        ports: (u16, u16),
        proto in prop_oneof![Just(TCP), Just(UDP), Just(SCTP)],
        flags in prop_oneof![any::<u8>(), 0..8_u8],
        extra in 0..5_u8,
        hops: u8,
    ) -> Packet {
        let narrow = |address: [u8; 16]| if v6 { address } else { widen(first4(&address)) };
        let (source, destination) = (narrow(source), narrow(destination));
        Packet { v6, source, destination, ports, proto, flags, extra, hops }
    }
}

prop_compose! {
    /// A header that may stand before the transport header, and its protocol number: extension headers of IPv6 that are
    /// followed, some that are not, and one that does not exist.
    fn extensions()(
        number in prop_oneof![Just(0_u8), Just(43), Just(44), Just(51), Just(60), Just(135), Just(139), Just(253)],
        words in 0..3_u8,
        bytes in vec(prop_oneof![4 => Just(0_u8), 1 => any::<u8>()], 8..=8),
    ) -> (u8, Vec<u8>) {
        let (field, length) = match number {
            44 => (0, 8),
            51 => (words + 1, 4 * (usize::from(words) + 3)),
            _ => (words, 8 * (usize::from(words) + 1)),
        };
        let mut header = bytes;
        header.resize(length, 0);
        header[1] = field;
        (number, header)
    }
}

impl Packet {
    fn transport(&self) -> Vec<u8> {
        let mut bytes = [self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes()].concat();
        bytes.extend([0; 16]);
        let at = if self.proto == TCP { 13 } else { 12 };
        bytes[at] = self.flags;
        bytes
    }

    /// With a fragment offset in units of eight bytes and the more-fragments flag.
    fn ip(&self, fragment: Option<(u16, bool)>) -> Vec<u8> {
        if self.v6 { self.ipv6(fragment) } else { self.ipv4(fragment) }
    }

    fn ipv4(&self, fragment: Option<(u16, bool)>) -> Vec<u8> {
        let (offset, more) = fragment.unwrap_or_default();
        let field = (offset & 0x1fff | if more { 0x2000 } else { 0 }).to_be_bytes();
        let mut bytes =
            vec![0x45 + self.extra, 0, 0, 0, 0xab, 0xcd, field[0], field[1], self.hops, self.proto, 0, 0];
        bytes.extend(first4(&self.source));
        bytes.extend(first4(&self.destination));
        bytes.extend(vec![1; usize::from(self.extra) * 4]);
        bytes.extend(self.transport());
        bytes
    }

    fn ipv6(&self, fragment: Option<(u16, bool)>) -> Vec<u8> {
        let last = if fragment.is_some() { 44 } else { self.proto };
        let next = if self.extra > 0 { 60 } else { last };
        let mut bytes = vec![0x60, 0, 0, 0, 0, 0, next, self.hops];
        bytes.extend(self.source);
        bytes.extend(self.destination);
        for left in (0..self.extra).rev() {
            bytes.extend([if left > 0 { 60 } else { last }, 0, 1, 4, 0, 0, 0, 0]);
        }
        if let Some((offset, more)) = fragment {
            let [a, b] = (offset << 3 | u16::from(more)).to_be_bytes();
            bytes.extend([self.proto, 0, a, b, 1, 2, 3, 4]);
        }
        bytes.extend(self.transport());
        bytes
    }

    /// Behind a chain of headers, each with the protocol number that announces it.
    fn behind(&self, chain: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut ip = Self { extra: 0, ..self.clone() }.with_lengths();
        let (at, next) = if self.v6 { (40, 6) } else { (20, 9) };
        for (number, header) in chain.iter().rev() {
            let mut header = header.clone();
            header[0] = std::mem::replace(&mut ip[next], *number);
            ip.splice(at..at, header);
        }
        let (field, length) = if self.v6 { (4, ip.len() - 40) } else { (2, ip.len()) };
        ip[field..field + 2].copy_from_slice(&u16::try_from(length).expect("short").to_be_bytes());
        ip
    }

    fn frame(&self) -> Vec<u8> {
        frame(&self.ip(None))
    }

    /// The IP packet with its length, and those within TCP and UDP, as a strict parser wants them.
    fn with_lengths(&self) -> Vec<u8> {
        let mut ip = self.ip(None);
        let whole = ip.len();
        let l4 = whole - self.transport().len();
        let field = |length: usize| u16::try_from(length).expect("short").to_be_bytes();
        if self.v6 {
            ip[4..6].copy_from_slice(&field(whole - 40));
        } else {
            ip[2..4].copy_from_slice(&field(whole));
        }
        match self.proto {
            TCP => ip[l4 + 12] = 0x50,
            UDP => ip[l4 + 4..l4 + 6].copy_from_slice(&field(whole - l4)),
            _ => {}
        }
        ip
    }

    fn kind(&self) -> Kind {
        match (self.proto, self.flags) {
            (UDP, _) | (SCTP, 1) => Kind::Opener,
            (TCP, flags) if flags & 0x12 == 0x02 => Kind::Opener,
            (SCTP, 2 | 6) => Kind::Answer,
            (TCP, flags) if flags & 0x06 != 0 => Kind::Answer,
            _ => Kind::Midflow,
        }
    }
}

fn frame(ip: &[u8]) -> Vec<u8> {
    let ethertype = if ip[0] >> 4 == 4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    [&[0; 12], &ethertype.to_be_bytes()[..], ip].concat()
}

fn ethernet(bytes: &[u8]) -> Result<Headers, Unparsed> {
    parse(&Slice(bytes), ETHERNET)
}

/// A header struct with the bytes at `offset`.
fn view<T>(bytes: &[u8], offset: usize) -> Option<T> {
    let bytes = bytes.get(offset..offset.checked_add(size_of::<T>())?)?;
    #[expect(unsafe_code, reason = "the programs read these structs in place, too")]
    // SAFETY: as many bytes as `T` has; the header structs are made of bytes alone.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

fn fast4(bytes: &[u8]) -> Option<FlowKey4> {
    let ip: Plain4 = view(bytes, Plain4::L3)?;
    ip.is_plain(&view::<Ethernet>(bytes, 0)?).then(|| ip.request(7))
}

fn fast6(bytes: &[u8]) -> Option<FlowKey6> {
    let ip: Plain6 = view(bytes, Plain6::L3)?;
    ip.is_plain(&view::<Ethernet>(bytes, 0)?).then(|| ip.request(7))
}

proptest! {
    #[test]
    fn what_was_written_is_found(packet in packets()) {
        let headers = ethernet(&packet.frame()).expect("well-formed");
        prop_assert_eq!(headers.source, packet.source);
        prop_assert_eq!(headers.destination, packet.destination);
        prop_assert_eq!((headers.source_port, headers.destination_port), packet.ports);
        prop_assert_eq!((headers.proto, headers.hops), (packet.proto, packet.hops));
        prop_assert_eq!(&packet.frame()[headers.l4 as usize..], packet.transport());
        prop_assert_eq!(headers.kind, packet.kind());
        prop_assert!(!headers.first_fragment);
    }

    #[test]
    fn devices_without_l2_header_give_the_same(packet in packets()) {
        let ethertype = if packet.v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
        let bare = parse(&Slice(&packet.ip(None)), Link { length: 0, ethertype, tagged: false });
        let whole = ethernet(&packet.frame()).map(|headers| Headers { l3: 0, l4: headers.l4 - 14, ..headers });
        prop_assert_eq!(bare, whole);
    }

    #[test]
    fn tags_are_followed_up_to_two(packet in packets(), tags in vec(any::<[u8; 2]>(), 0..4)) {
        let plain = packet.frame();
        let mut tagged = plain[..12].to_vec();
        for tag in &tags {
            tagged.extend([&ETHERTYPE_VLAN.to_be_bytes()[..], tag].concat());
        }
        tagged.extend(&plain[12..]);
        let more = 4 * u32::try_from(tags.len()).expect("few");
        let expected = match tags.len() {
            0..=2 => ethernet(&plain).map(|headers| Headers { l3: 14 + more, l4: headers.l4 + more, ..headers }),
            _ => Err(Unparsed::TooDeep),
        };
        prop_assert_eq!(parse(&Slice(&tagged), Link { tagged: true, ..ETHERNET }), expected);
        if !tags.is_empty() {
            prop_assert_eq!(ethernet(&tagged), Err(Unparsed::UpperDevice));
        }
    }

    #[test]
    fn fragments_have_ports_only_in_the_first(packet in packets(), offset in 1..0x1fff_u16, more: bool) {
        let first = ethernet(&frame(&packet.ip(Some((0, true))))).expect("well-formed");
        prop_assert!(first.first_fragment);
        prop_assert_eq!((first.source_port, first.destination_port), packet.ports);
        let later = ethernet(&frame(&packet.ip(Some((offset, more))))).expect("well-formed");
        prop_assert_eq!(later.kind, Kind::LaterFragment);
        prop_assert_eq!(later.proto, packet.proto);
        prop_assert_eq!((later.source_port, later.destination_port), (0, 0));
        prop_assert_eq!(later.fragment_id, first.fragment_id);
    }

    #[test]
    fn errors_give_the_tuple_that_they_embed(packet in packets(), error in 0..3_usize) {
        let packet = Packet { extra: if packet.v6 { 0 } else { packet.extra }, ..packet };
        let (proto, message) = if packet.v6 { (ICMPV6, [1, 2, 3][error]) } else { (ICMP, [3, 11, 12][error]) };
        let mut outer = if packet.v6 { vec![0x60, 0, 0, 0, 0, 0, proto, 64] } else { vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0] };
        let length = if packet.v6 { 16 } else { 4 };
        outer.extend(vec![9; length]);
        outer.extend(&packet.source[..length]);
        outer.extend([message, 0, 0, 0, 0, 0, 0, 0]);
        outer.extend(packet.ip(None));
        let headers = ethernet(&frame(&outer)).expect("well-formed");
        prop_assert_eq!((headers.kind, headers.proto), (Kind::Error, packet.proto));
        prop_assert_eq!((headers.source, headers.destination), (packet.source, packet.destination));
        prop_assert_eq!((headers.source_port, headers.destination_port), packet.ports);
    }

    #[test]
    fn the_fast_parser_agrees_with_the_slow_one(packet in packets(), fragment: Option<(u16, bool)>) {
        let bytes = frame(&packet.ip(fragment));
        if let Some(key) = fast4(&bytes) {
            let headers = ethernet(&bytes).expect("plain");
            prop_assert_eq!(key, headers.request4(7));
            prop_assert!(headers.kind != Kind::LaterFragment && !headers.first_fragment);
        }
        if let Some(key) = fast6(&bytes) {
            prop_assert_eq!(key, ethernet(&bytes).expect("plain").request6(7));
            let ip: Plain6 = view(&bytes, Plain6::L3).expect("plain");
            let secret = [9, 8, 7, 6, 5, 4, 3, 2];
            prop_assert_eq!(ip.request_digest(7, &secret), key.digest(&secret));
            prop_assert_eq!(ip.reply_digest(7, &secret), key.mirrored().digest(&secret));
        }
        let plain = packet.extra == 0 && fragment.is_none();
        prop_assert!(!plain || fast4(&bytes).is_some() != fast6(&bytes).is_some());
    }

    #[test]
    fn another_parser_reads_the_same(packet in packets(), changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)) {
        let mut ip = packet.with_lengths();
        prop_assert!(packet.proto == SCTP || oracle::tuple(&ip).is_some(), "etherparse reads what was written");
        for (at, byte) in changes {
            let at = at.index(ip.len());
            ip[at] = byte;
        }
        prop_assert_eq!(oracle::disagreement(&ip), None);
    }

    #[test]
    fn another_parser_follows_the_same_headers(packet in packets(), chain in vec(extensions(), 0..8)) {
        prop_assert_eq!(oracle::disagreement(&packet.behind(&chain)), None);
    }

    #[test]
    fn a_cut_packet_is_truncated_or_the_same(packet in packets(), cut in 0..120_usize) {
        let bytes = packet.frame();
        let whole = ethernet(&bytes).expect("well-formed");
        match ethernet(&bytes[..cut.min(bytes.len())]) {
            Ok(headers) => prop_assert_eq!(headers, whole),
            Err(reason) => prop_assert_eq!(reason, Unparsed::Truncated),
        }
    }

    #[test]
    fn no_bytes_make_it_panic(
        bytes in vec(any::<u8>(), 0..160),
        ethertype in prop_oneof![Just(ETHERTYPE_IPV4), Just(ETHERTYPE_IPV6), Just(ETHERTYPE_VLAN), any::<u16>()],
        version in prop_oneof![Just(0x45_u8), Just(0x60), any::<u8>()],
        tagged: bool,
    ) {
        let mut bytes = bytes;
        if bytes.len() > 14 {
            bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
            bytes[14] = version;
        }
        if let Ok(headers) = parse(&Slice(&bytes), Link { length: 14, ethertype: 0, tagged }) {
            prop_assert!(headers.family == 4 || headers.family == 6);
        }
        let slow = ethernet(&bytes);
        // What the fast parser takes, the slow one takes, unless the packet ends within the transport header.
        if let Some(key) = fast4(&bytes) {
            prop_assert!(slow == Err(Unparsed::Truncated) || slow.map(|headers| headers.request4(7)) == Ok(key));
        }
        if let Some(key) = fast6(&bytes) {
            prop_assert!(slow == Err(Unparsed::Truncated) || slow.map(|headers| headers.request6(7)) == Ok(key));
        }
    }

    #[test]
    fn a_reply_has_the_key_of_its_request(packet in packets()) {
        let reply = Packet {
            source: packet.destination,
            destination: packet.source,
            ports: (packet.ports.1, packet.ports.0),
            extra: 0,
            ..packet.clone()
        };
        let request = Packet { extra: 0, ..packet };
        prop_assert_eq!(fast4(&request.frame()), fast4(&reply.frame()).map(|key| key.mirrored()));
        prop_assert_eq!(fast6(&request.frame()), fast6(&reply.frame()).map(|key| key.mirrored()));
    }
}

#[test]
fn what_has_no_flows_is_other() {
    let mut arp = vec![0; 42];
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    assert_eq!(ethernet(&arp), Err(Unparsed::Other));
    for proto in [2, 47, 50, 89, 103, 112] {
        let packet = Packet {
            v6: false,
            source: [1; 16],
            destination: [2; 16],
            ports: (1, 2),
            proto,
            flags: 0,
            extra: 0,
            hops: 1,
        };
        assert_eq!(ethernet(&packet.frame()), Err(Unparsed::Other), "protocol {proto}");
        assert_eq!(
            ethernet(&Packet { v6: true, ..packet }.frame()),
            Err(Unparsed::Other),
            "protocol {proto}"
        );
    }
}
