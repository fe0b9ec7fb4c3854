#![no_main]

use libfuzzer_sys::fuzz_target;
use zebra_fpm::frame::Encoding;
use zebra_fpm::netlink::{decode, decode_message, encode};
use zebra_fpm::{Record, Update};

fn check(update: &Update) {
    assert!(!update.to_string().is_empty());
    let _ = Record { encoding: Encoding::Netlink, update };
    let mut bytes = Vec::new();
    encode(update, 0, &mut bytes);
    let mut again = Vec::new();
    // Weights, long lists of labels and scopes that netlink cannot hold are cut: the second round is stable.
    if decode(&bytes, |update| again.push(update)).is_ok()
        && let [once] = &*again
    {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        encode(once, 0, &mut first);
        decode(&first, |update| encode(&update, 0, &mut second)).expect("what was encoded decodes");
        assert_eq!(first, second);
    }
}

fuzz_target!(|input: (u8, &[u8])| {
    let (choice, bytes) = input;
    let _ = decode(bytes, |update| check(&update));
    let types = [24, 25, 28, 29, 104, 105, 20];
    if let Ok(update) = decode_message(types[usize::from(choice) % types.len()], bytes) {
        check(&update);
    }
});
