//! WireGuard between two namespaces.

use std::io::Write as _;

use anyhow::Result;
use backtrail_lab::Namespace;
use tempfile::NamedTempFile;

/// The same on both sides, as is usual between nodes.
const PORT: u16 = 51_820;

/// Makes peers of a device of this name in both namespaces, each with the address at which the other one finds it; whatever is
/// routed there goes through.
pub(crate) fn join(device: &str, ends: [(&Namespace, &str); 2]) -> Result<()> {
    let [(a, at_a), (b, at_b)] = ends;
    let key = |space: &Namespace| Ok::<_, anyhow::Error>(space.run("wg genkey")?.trim().to_owned());
    let (key_a, key_b) = (key(a)?, key(b)?);
    for (space, own, other, at) in [(a, &key_a, &key_b, at_b), (b, &key_b, &key_a, at_a)] {
        let mut file = NamedTempFile::new()?;
        file.write_all(own.as_bytes())?;
        space.run(&format!(
            "wg set {device} listen-port {PORT} private-key {} peer $(echo {other} | wg pubkey) \\
                 allowed-ips 0.0.0.0/0,::/0 endpoint {at}:{PORT}",
            file.path().display()
        ))?;
    }
    Ok(())
}
