use super::*;

fn decode(bytes: &[u8]) -> FrameErrorCause {
    let mut decoder = FrameDecoder::with_max_len(100);
    decoder.extend(&[1, 2, 0, 5, 0]);
    decoder.extend(bytes);
    assert!(decoder.next_frame().unwrap().is_some());
    let error = match decoder.next_frame() {
        Ok(frame) => {
            assert_eq!(frame, None);
            decoder.finish().unwrap_err()
        }
        Err(error) => {
            assert_eq!(decoder.next_frame(), Err(error), "no way around it");
            error
        }
    };
    assert_eq!(error.offset, 5, "its first byte");
    error.cause
}

#[test]
fn bad_frames_are_named_with_their_offset() {
    assert_eq!(decode(&[0, 1, 0, 20]), FrameErrorCause::UnknownVersion(0));
    assert_eq!(decode(&[1, 0, 0, 20]), FrameErrorCause::UnknownType(0));
    assert_eq!(decode(&[1, 1, 0, 19]), FrameErrorCause::TooShort { len: 19, min: 20 });
    assert_eq!(decode(&[1, 2, 0, 3]), FrameErrorCause::TooShort { len: 3, min: 4 });
    assert_eq!(decode(&[1, 1, 0, 101]), FrameErrorCause::TooLong { len: 101, max: 100 });
    assert_eq!(decode(&[1, 1, 0, 24, 0]), FrameErrorCause::Truncated { have: 5, len: 24 });
    assert_eq!(decode(&[1, 1]), FrameErrorCause::Truncated { have: 2, len: 4 });
}

#[test]
fn the_buffer_stays_small() {
    let mut decoder = FrameDecoder::new();
    let frame = [&[1, 2, 1, 0][..], &[7; 252]].concat();
    for _ in 0..20_000 {
        decoder.read_buffer().extend_from_slice(&frame);
        assert!(decoder.next_frame().unwrap().is_some());
    }
    assert_eq!(decoder.offset(), 20_000 * 256);
    assert!(decoder.buffer.capacity() < 2 * READ_SPACE, "{}", decoder.buffer.capacity());
}

#[test]
fn a_payload_that_does_not_fit_is_refused() {
    let mut out = vec![9];
    let error = write_frame(Encoding::Netlink, &mut out, |payload| payload.resize(payload.len() + 65_532, 0));
    assert_eq!((error, out), (Err(PayloadTooLong { payload_len: 65_532 }), vec![9]));
}
