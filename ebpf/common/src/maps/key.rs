//! Names of flows: the keys of the flow tables.

/// One direction-free name for a flow: who asked (`client`) and whom (`service`), IPv4.
///
/// The node's own flows are held with the remote end as the client. ICMP echo uses its id as the port of the
/// side that sent the request, and 0 for the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C, align(8))]
pub struct FlowKey4 {
    /// Network order.
    pub client: [u8; 4],
    /// Network order.
    pub service: [u8; 4],
    /// Host order.
    pub client_port: u16,
    /// Host order.
    pub service_port: u16,
    /// IP protocol number (6, 17, 132, 1).
    pub proto: u32,
    /// [`Iface::zone`](super::Iface::zone) of the interface it was seen on.
    pub zone: u32,
    /// Zero.
    pub reserved: u32,
}

/// As [`FlowKey4`], for IPv6 (`proto` 58 for echo). Its table is keyed by its [`digest`](Self::digest).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C, align(8))]
pub struct FlowKey6 {
    /// Network order.
    pub client: [u8; 16],
    /// Network order.
    pub service: [u8; 16],
    /// Host order.
    pub client_port: u16,
    /// Host order.
    pub service_port: u16,
    /// IP protocol number (6, 17, 132, 58).
    pub proto: u32,
    /// [`Iface::zone`](super::Iface::zone) of the interface it was seen on.
    pub zone: u32,
    /// Zero.
    pub reserved: u32,
}

/// Words of [`Globals::secret`](super::Globals::secret).
pub const SECRET: usize = 8;

/// Key of the IPv6 table: a flow with its addresses condensed, half as long as [`FlowKey6`], for the kernel's hash costs a
/// third of a lookup for every twelve bytes. Two flows with one digest are told apart by the addresses in
/// [`Flow6`](super::Flow6): the later one takes the place of the other, never its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C, align(8))]
pub struct FlowDigest6 {
    /// The universal hash NH (RFC 4418, 5.2) of client and service: with a secret that nobody knows, two pairs of addresses
    /// agree with a chance of 2^-32 at most, whoever chooses them.
    pub addresses: u64,
    /// Host order.
    pub client_port: u16,
    /// Host order.
    pub service_port: u16,
    /// IP protocol number (6, 17, 132, 58).
    pub proto: u32,
    /// [`Iface::zone`](super::Iface::zone) of the interface it was seen on.
    pub zone: u32,
    /// Zero.
    pub reserved: u32,
}

impl FlowKey4 {
    /// The words of [`recent_index`](super::recent_index).
    #[inline(always)]
    #[must_use]
    pub const fn recent(&self) -> (u32, u16, u16) {
        (u32::from_ne_bytes(self.client), self.client_port, self.service_port)
    }
}

impl FlowKey6 {
    /// The words of [`recent_index`](super::recent_index).
    #[inline(always)]
    #[must_use]
    pub const fn recent(&self) -> (u32, u16, u16) {
        (words(&self.client)[3], self.client_port, self.service_port)
    }

    /// Where this flow is in the IPv6 table.
    #[inline(always)]
    #[must_use]
    pub const fn digest(&self, secret: &[u32; SECRET]) -> FlowDigest6 {
        FlowDigest6 {
            addresses: condense(&self.client, &self.service, secret),
            client_port: self.client_port,
            service_port: self.service_port,
            proto: self.proto,
            zone: self.zone,
            reserved: 0,
        }
    }
}

/// [`FlowDigest6::addresses`]
#[inline(always)]
#[must_use]
pub const fn condense(client: &[u8; 16], service: &[u8; 16], secret: &[u32; SECRET]) -> u64 {
    let (c, s) = (words(client), words(service));
    product(c[0], secret[0], c[1], secret[1])
        .wrapping_add(product(c[2], secret[2], c[3], secret[3]))
        .wrapping_add(product(s[0], secret[4], s[1], secret[5]))
        .wrapping_add(product(s[2], secret[6], s[3], secret[7]))
}

/// One term of NH.
#[inline(always)]
const fn product(a: u32, secret_a: u32, b: u32, secret_b: u32) -> u64 {
    (a.wrapping_add(secret_a) as u64) * (b.wrapping_add(secret_b) as u64)
}

/// An address in words, each as it lies in memory.
#[inline(always)]
pub(crate) const fn words(a: &[u8; 16]) -> [u32; 4] {
    [
        u32::from_ne_bytes([a[0], a[1], a[2], a[3]]),
        u32::from_ne_bytes([a[4], a[5], a[6], a[7]]),
        u32::from_ne_bytes([a[8], a[9], a[10], a[11]]),
        u32::from_ne_bytes([a[12], a[13], a[14], a[15]]),
    ]
}

const _: () = {
    assert!(size_of::<FlowKey4>() == 24);
    assert!(size_of::<FlowKey6>() == 48);
    assert!(size_of::<FlowDigest6>() == 24);
};
