use super::Archive;

/// Names, modes and contents, read back by the format's own rules.
fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
    let mut entries = Vec::new();
    loop {
        assert_eq!(&bytes[..6], b"070701");
        let field = |n: usize| {
            u32::from_str_radix(std::str::from_utf8(&bytes[6 + 8 * n..14 + 8 * n]).unwrap(), 16).unwrap()
        };
        let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
        let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
        assert_eq!(bytes[110 + name_size - 1], 0);
        let data = (110 + name_size).next_multiple_of(4);
        if name == "TRAILER!!!" {
            return entries;
        }
        entries.push((name, mode, bytes[data..data + size].to_vec()));
        bytes = &bytes[(data + size).next_multiple_of(4)..];
    }
}

#[test]
fn what_is_written_can_be_read() {
    let mut archive = Archive::default();
    archive.file("/a/b/program", 0o755, b"12345").unwrap();
    archive.link("/a/link", "b/program").unwrap();
    archive.device("/dev/console", 5, 1).unwrap();
    archive.file("/a/b/program", 0o644, b"another").unwrap();
    archive.folder("/a").unwrap();
    let entries = read(&archive.finish().unwrap());
    let expected: Vec<(&str, u32, &[u8])> = vec![
        ("a", 0o40755, b""),
        ("a/b", 0o40755, b""),
        ("a/b/program", 0o100_755, b"12345"),
        ("a/link", 0o120_777, b"b/program"),
        ("dev", 0o40755, b""),
        ("dev/console", 0o20600, b""),
    ];
    let expected: Vec<_> =
        expected.into_iter().map(|(name, mode, data)| (name.to_owned(), mode, data.to_vec())).collect();
    assert_eq!(entries, expected);
}
