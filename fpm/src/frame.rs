//! FPM frames: a header of four bytes, then netlink messages or one protobuf message.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 1 | type: 1 netlink, 2 protobuf |
//! | 2 | 2 | length of the whole frame with these four bytes, big endian |
//!
//! Source: FRR's `fpm/fpm.h`. Frames are not aligned: protobuf frames have any length.

use std::fmt;

use serde::Serialize;

/// Bytes of the header.
pub const HEADER_LEN: usize = 4;
/// The largest frame that the header's length field can state.
pub const MAX_FRAME_LEN: usize = u16::MAX as usize;
/// The shortest netlink frame: the header and one netlink header.
const MIN_NETLINK_LEN: usize = HEADER_LEN + 16;
/// The only version there is.
const VERSION: u8 = 1;
/// What is kept free at the end of the buffer for the next read.
const READ_SPACE: usize = 256 * 1024;

/// What a frame's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// One or more netlink messages, in the byte order of zebra's machine.
    Netlink,
    /// One `fpm.Message`.
    Protobuf,
}

impl Encoding {
    fn from_wire(kind: u8) -> Option<Self> {
        match kind {
            1 => Some(Self::Netlink),
            2 => Some(Self::Protobuf),
            _ => None,
        }
    }

    fn to_wire(self) -> u8 {
        match self {
            Self::Netlink => 1,
            Self::Protobuf => 2,
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Netlink => "netlink",
            Self::Protobuf => "protobuf",
        })
    }
}

/// A whole frame, borrowed from the decoder's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Position of the frame's first byte in the stream.
    pub offset: u64,
    /// What the payload is.
    pub encoding: Encoding,
    /// What follows the header.
    pub payload: &'a [u8],
}

/// Why bytes are not a frame. Nothing after it can be trusted: close the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bad FPM frame at byte {offset}: {cause}")]
pub struct FrameError {
    /// Position of the frame's first byte in the stream.
    pub offset: u64,
    /// What is wrong with it.
    pub cause: FrameErrorCause,
}

/// What is wrong with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameErrorCause {
    /// Not version 1.
    #[error("version {0}, only 1 is known: is the peer an FPM client?")]
    UnknownVersion(u8),
    /// Neither netlink nor protobuf.
    #[error("type {0}, only 1 (netlink) and 2 (protobuf) are known")]
    UnknownType(u8),
    /// The length cannot hold the headers.
    #[error("length {len}, at least {min} needed")]
    TooShort {
        /// As stated by the header.
        len: usize,
        /// The least that would do.
        min: usize,
    },
    /// Longer than this decoder accepts.
    #[error("length {len}, at most {max} accepted")]
    TooLong {
        /// As stated by the header.
        len: usize,
        /// The decoder's limit.
        max: usize,
    },
    /// The stream ended within the frame.
    #[error("truncated: the stream ends after {have} of {len} bytes")]
    Truncated {
        /// Bytes that are there.
        have: usize,
        /// As stated by the header; 4 where not even the header is whole.
        len: usize,
    },
}

/// Cuts a byte stream into frames, however its bytes are split over reads.
///
/// Its memory is bounded by twice what was added and not taken: with all frames taken between two reads, by the largest
/// frame and the size of a read, twice.
///
/// ```
/// use zebra_fpm::frame::{Encoding, FrameDecoder, write_frame};
///
/// let mut stream = Vec::new();
/// write_frame(Encoding::Protobuf, &mut stream, |payload| payload.extend_from_slice(b"abc"))?;
/// let mut decoder = FrameDecoder::new();
/// decoder.extend(&stream[..5]);
/// assert_eq!(decoder.next_frame()?, None);
/// decoder.extend(&stream[5..]);
/// assert_eq!(decoder.next_frame()?.map(|frame| frame.payload), Some(b"abc".as_slice()));
/// decoder.finish()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    /// Bytes at the start of `buffer` that were handed out.
    consumed: usize,
    /// Position in the stream of the first byte that was not handed out.
    offset: u64,
    max_len: usize,
}

impl Default for FrameDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameDecoder {
    /// A decoder at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::with_max_len(MAX_FRAME_LEN)
    }

    /// As `new`, but frames of more than `max_len` bytes are errors.
    #[must_use]
    pub fn with_max_len(max_len: usize) -> Self {
        Self { buffer: Vec::new(), consumed: 0, offset: 0, max_len }
    }

    /// Adds bytes of the stream.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.compact();
        self.buffer.extend_from_slice(bytes);
    }

    /// The buffer to append the stream's next bytes to, with 256 KiB of spare capacity: saves a copy.
    pub fn read_buffer(&mut self) -> &mut Vec<u8> {
        self.compact();
        self.buffer.reserve(READ_SPACE);
        &mut self.buffer
    }

    /// Position in the stream of the first byte that belongs to no frame handed out so far.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next whole frame, or `None` until more bytes arrive.
    ///
    /// # Errors
    /// If the bytes are not a frame; every later call gives the same error.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        let offset = self.offset;
        let rest = self.buffer.get(self.consumed..).unwrap_or_default();
        let Some((encoding, len)) = self.header(rest)? else {
            return Ok(None);
        };
        let Some(payload) = rest.get(HEADER_LEN..len) else {
            return Ok(None);
        };
        self.consumed += len;
        self.offset += len as u64;
        Ok(Some(Frame { offset, encoding, payload }))
    }

    /// Tells whether the stream may end here.
    ///
    /// # Errors
    /// If it ends within a frame, or if the bytes left are not a frame.
    pub fn finish(&self) -> Result<(), FrameError> {
        let rest = self.buffer.get(self.consumed..).unwrap_or_default();
        let len = match self.header(rest)? {
            Some((_, len)) => len,
            None if rest.is_empty() => return Ok(()),
            None => HEADER_LEN,
        };
        Err(self.error(FrameErrorCause::Truncated { have: rest.len(), len }))
    }

    fn header(&self, rest: &[u8]) -> Result<Option<(Encoding, usize)>, FrameError> {
        let &[version, kind, high, low, ..] = rest else {
            return Ok(None);
        };
        if version != VERSION {
            return Err(self.error(FrameErrorCause::UnknownVersion(version)));
        }
        let Some(encoding) = Encoding::from_wire(kind) else {
            return Err(self.error(FrameErrorCause::UnknownType(kind)));
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        let min = match encoding {
            Encoding::Netlink => MIN_NETLINK_LEN,
            Encoding::Protobuf => HEADER_LEN,
        };
        if len < min {
            return Err(self.error(FrameErrorCause::TooShort { len, min }));
        }
        if len > self.max_len {
            return Err(self.error(FrameErrorCause::TooLong { len, max: self.max_len }));
        }
        Ok(Some((encoding, len)))
    }

    fn error(&self, cause: FrameErrorCause) -> FrameError {
        FrameError { offset: self.offset, cause }
    }

    /// Makes room once half of the buffer was handed out: however few frames are taken between two reads, a byte is moved
    /// once for each time that as many were handed out.
    fn compact(&mut self) {
        if self.consumed * 2 >= self.buffer.len() {
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
        }
    }
}

/// The payload does not fit the header's length field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("payload of {payload_len} bytes does not fit an FPM frame (at most 65531): split it")]
pub struct PayloadTooLong {
    /// Its length.
    pub payload_len: usize,
}

/// Appends a frame, whose payload `write` appends.
///
/// # Errors
/// If the payload is too long; `out` is as before then.
pub fn write_frame(
    encoding: Encoding,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>),
) -> Result<(), PayloadTooLong> {
    let start = out.len();
    out.extend_from_slice(&[VERSION, encoding.to_wire(), 0, 0]);
    write(out);
    let len = out.len() - start;
    match (u16::try_from(len), out.get_mut(start + 2..start + 4)) {
        (Ok(len), Some(field)) => {
            field.copy_from_slice(&len.to_be_bytes());
            Ok(())
        }
        _ => {
            out.truncate(start);
            Err(PayloadTooLong { payload_len: len.saturating_sub(HEADER_LEN) })
        }
    }
}

#[cfg(test)]
mod tests;
