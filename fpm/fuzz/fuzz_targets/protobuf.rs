#![no_main]

use libfuzzer_sys::fuzz_target;
use zebra_fpm::protobuf;

fuzz_target!(|payload: &[u8]| {
    // A seed is a whole stream: its first frame's header is not part of the payload.
    for payload in [payload, payload.get(4..).unwrap_or_default()] {
        if let Ok(update) = protobuf::decode(payload) {
            assert!(!update.to_string().is_empty());
        }
    }
});
