//! Stream bytes to updates: frames and payloads together.

use crate::frame::{Encoding, Frame, FrameDecoder, FrameError};
use crate::netlink::{self, DecodeError};
use crate::protobuf::{self, ProtobufError};
use crate::update::Update;

/// What is wrong with a frame's payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Netlink.
    #[error(transparent)]
    Netlink(#[from] DecodeError),
    /// Protobuf.
    #[error(transparent)]
    Protobuf(#[from] ProtobufError),
}

/// What is wrong with a stream. Nothing after it can be trusted: close the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// No frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame with a damaged payload.
    #[error("bad FPM frame at byte {offset}: {source}")]
    Payload {
        /// Position of the frame's first byte in the stream.
        offset: u64,
        /// What is wrong.
        source: PayloadError,
    },
}

impl StreamError {
    /// Position in the stream of the first byte of the bad frame.
    #[must_use]
    pub fn offset(&self) -> u64 {
        match self {
            Self::Frame(error) => error.offset,
            Self::Payload { offset, .. } => *offset,
        }
    }
}

/// What a frame was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameInfo {
    /// Position of its first byte in the stream.
    pub offset: u64,
    /// How its payload was written.
    pub encoding: Encoding,
    /// zebra's netlink port id; none with protobuf.
    pub pid: Option<u32>,
    /// Messages kept raw.
    pub raw_messages: u32,
    /// Attributes that the types of this crate have no place for: skipped, but an encapsulation of an unknown type, which is
    /// kept raw. With protobuf 1 if the message has fields that are not in the schema.
    pub unknown_attributes: u32,
}

/// Appends a frame's updates to `updates`: all of them, or none if one is damaged.
///
/// # Errors
/// If the payload is damaged.
pub fn decode_frame(frame: &Frame<'_>, updates: &mut Vec<Update>) -> Result<FrameInfo, StreamError> {
    let before = updates.len();
    let decoded = match frame.encoding {
        Encoding::Netlink => {
            netlink::decode(frame.payload, |update| updates.push(update)).map_err(Into::into)
        }
        Encoding::Protobuf => {
            protobuf::decode_counting(frame.payload).map_err(Into::into).map(|(update, skipped)| {
                let raw_messages = u32::from(matches!(update, Update::Raw(_)));
                updates.push(update);
                let unknown_attributes = u32::from(skipped);
                netlink::Summary { pid: None, messages: 1, raw_messages, unknown_attributes }
            })
        }
    };
    match decoded {
        Ok(summary) => Ok(FrameInfo {
            offset: frame.offset,
            encoding: frame.encoding,
            pid: summary.pid,
            raw_messages: summary.raw_messages,
            unknown_attributes: summary.unknown_attributes,
        }),
        Err(source) => {
            updates.truncate(before);
            Err(StreamError::Payload { offset: frame.offset, source })
        }
    }
}

/// Decodes a stream, however its bytes are split over reads.
#[derive(Debug, Default)]
pub struct Decoder {
    frames: FrameDecoder,
}

impl Decoder {
    /// A decoder at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The frames' decoder, to add bytes to.
    pub fn frames(&mut self) -> &mut FrameDecoder {
        &mut self.frames
    }

    /// Appends the updates of the next whole frame; `None` until more bytes arrive.
    ///
    /// # Errors
    /// If the stream is malformed.
    pub fn next_frame(&mut self, updates: &mut Vec<Update>) -> Result<Option<FrameInfo>, StreamError> {
        match self.frames.next_frame()? {
            Some(frame) => decode_frame(&frame, updates).map(Some),
            None => Ok(None),
        }
    }

    /// Tells whether the stream may end here.
    ///
    /// # Errors
    /// If it ends within a frame.
    pub fn finish(&self) -> Result<(), StreamError> {
        Ok(self.frames.finish()?)
    }
}
