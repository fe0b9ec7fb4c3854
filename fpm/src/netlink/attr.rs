//! Netlink attributes (`struct nlattr`, `struct rtattr`): length, type, value, padded to four bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of an attribute's header.
const HEADER_LEN: usize = 4;
/// `NLA_TYPE_MASK`: the two upper bits are `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
const TYPE_MASK: u16 = 0x3fff;
/// `NLA_F_NESTED`.
pub(crate) const NESTED: u16 = 0x8000;

/// Rounds up to netlink's alignment of four bytes.
pub(crate) fn align(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// Why bytes are not attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    /// An attribute does not end where its message does.
    #[error("attribute {kind}: length {len}, but {available} bytes are left of its message")]
    Length {
        /// Its type, without flags.
        kind: u16,
        /// As stated by the attribute.
        len: usize,
        /// What is there, with the attribute's header.
        available: usize,
    },
    /// The value has not the size that its type asks for.
    #[error("attribute {kind}: value of {len} bytes, {expected} expected")]
    Size {
        /// Its type, without flags.
        kind: u16,
        /// The value's length.
        len: usize,
        /// What would be right.
        expected: &'static str,
    },
}

/// One attribute. Numbers are in host byte order unless a function says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Type, without the flags in its upper two bits.
    pub kind: u16,
    /// Value, without padding.
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    #[inline]
    fn array<const N: usize>(&self, expected: &'static str) -> Result<[u8; N], AttributeError> {
        self.value.try_into().map_err(|_| self.size_error(expected))
    }

    /// The error of a value of the wrong size.
    #[must_use]
    pub fn size_error(&self, expected: &'static str) -> AttributeError {
        AttributeError::Size { kind: self.kind, len: self.value.len(), expected }
    }

    /// The value as one byte.
    ///
    /// # Errors
    /// If it has another size.
    pub fn u8(&self) -> Result<u8, AttributeError> {
        self.array::<1>("1").map(|[byte]| byte)
    }

    /// The value as 16 bits.
    ///
    /// # Errors
    /// If it has another size.
    pub fn u16(&self) -> Result<u16, AttributeError> {
        self.array("2").map(u16::from_ne_bytes)
    }

    /// The value as 32 bits.
    ///
    /// # Errors
    /// If it has another size.
    pub fn u32(&self) -> Result<u32, AttributeError> {
        self.array("4").map(u32::from_ne_bytes)
    }

    /// The value as 64 bits in network byte order.
    ///
    /// # Errors
    /// If it has another size.
    pub fn u64_be(&self) -> Result<u64, AttributeError> {
        self.array("8").map(u64::from_be_bytes)
    }

    /// The value as an IPv4 address.
    ///
    /// # Errors
    /// If it has another size.
    pub fn ipv4(&self) -> Result<Ipv4Addr, AttributeError> {
        self.array::<4>("4").map(Ipv4Addr::from)
    }

    /// The value as an IPv6 address.
    ///
    /// # Errors
    /// If it has another size.
    pub fn ipv6(&self) -> Result<Ipv6Addr, AttributeError> {
        self.array::<16>("16").map(Ipv6Addr::from)
    }

    /// The value as an address of the family that its size tells: the message's own family is not a reliable
    /// hint, for routes of one family may have gateways of the other.
    ///
    /// # Errors
    /// If it is not an address's size.
    pub fn ip(&self) -> Result<IpAddr, AttributeError> {
        match self.value.len() {
            4 => self.ipv4().map(IpAddr::V4),
            16 => self.ipv6().map(IpAddr::V6),
            _ => Err(self.size_error("4 or 16")),
        }
    }

    /// The value as `struct rtvia`: a family of two bytes, then an address.
    ///
    /// # Errors
    /// If it has no such size.
    pub fn via(&self) -> Result<IpAddr, AttributeError> {
        let address = self.value.get(2..).unwrap_or_default();
        Attribute { kind: self.kind, value: address }.ip().map_err(|_| self.size_error("6 or 18"))
    }

    /// The attributes within the value.
    #[must_use]
    pub fn nested(&self) -> Attributes<'a> {
        Attributes::new(self.value)
    }
}

/// Iterates over attributes; ends after the first error.
///
/// Like the kernel it ignores up to three bytes after the last attribute.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// The attributes in `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, AttributeError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        #[cfg(test)]
        super::tests::STEPS.with(|steps| steps.set(steps.get() + 1));
        let &[len0, len1, kind0, kind1, ..] = self.rest else {
            return None;
        };
        let len = usize::from(u16::from_ne_bytes([len0, len1]));
        let kind = u16::from_ne_bytes([kind0, kind1]) & TYPE_MASK;
        let Some(value) = self.rest.get(HEADER_LEN..len) else {
            let available = self.rest.len();
            self.rest = &[];
            return Some(Err(AttributeError::Length { kind, len, available }));
        };
        self.rest = self.rest.get(align(len)..).unwrap_or_default();
        Some(Ok(Attribute { kind, value }))
    }
}
