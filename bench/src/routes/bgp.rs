//! The shortest BGP speaker (RFC 4271) that can fill a router: it announces, withdraws, and listens to nothing.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::Namespace;
use ipnet::Ipv4Net;

const MARKER: [u8; 16] = [0xff; 16];
const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const KEEPALIVE: u8 = 4;
/// Bytes of the longest message.
const MAX: usize = 4096;

/// An established session.
pub(crate) struct Speaker {
    stream: TcpStream,
    attributes: Vec<u8>,
}

impl Speaker {
    /// Opens a session from a namespace to a router; routes are announced with `address` as their nexthop.
    pub(crate) fn establish(
        namespace: &Namespace,
        router: SocketAddr,
        asn: u16,
        address: Ipv4Addr,
    ) -> Result<Self> {
        let began = Instant::now();
        let mut stream = loop {
            match namespace.enter(|| TcpStream::connect(router))? {
                Ok(stream) => break stream,
                Err(error) if began.elapsed() > Duration::from_secs(30) => {
                    return Err(error).context("bgpd does not listen");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        };
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        // Version 4; hold time 0: no keepalives are expected; no optional parameters.
        let mut open = vec![4];
        open.extend(asn.to_be_bytes());
        open.extend([0, 0]);
        open.extend(address.octets());
        open.push(0);
        stream.write_all(&message(OPEN, &open))?;
        ensure!(receive(&mut stream)? == OPEN, "bgpd answers OPEN with something else");
        stream.write_all(&message(KEEPALIVE, &[]))?;
        ensure!(receive(&mut stream)? == KEEPALIVE, "bgpd refuses the session");
        drain(stream.try_clone()?);
        // ORIGIN IGP, AS_PATH of one AS_SEQUENCE, NEXT_HOP.
        let mut attributes = vec![0x40, 1, 1, 0, 0x40, 2, 4, 2, 1];
        attributes.extend(asn.to_be_bytes());
        attributes.extend([0x40, 3, 4]);
        attributes.extend(address.octets());
        Ok(Self { stream, attributes })
    }

    pub(crate) fn announce(&mut self, routes: &[Ipv4Net]) -> Result<()> {
        let mut head = vec![0, 0];
        head.extend(u16::try_from(self.attributes.len())?.to_be_bytes());
        head.extend(&self.attributes);
        self.send(routes, |prefixes| [&head, prefixes].concat())
    }

    pub(crate) fn withdraw(&mut self, routes: &[Ipv4Net]) -> Result<()> {
        self.send(routes, |prefixes| {
            let length = u16::try_from(prefixes.len()).unwrap_or(u16::MAX).to_be_bytes();
            [&length[..], prefixes, &[0, 0]].concat()
        })
    }

    fn send(&mut self, routes: &[Ipv4Net], update: impl Fn(&[u8]) -> Vec<u8>) -> Result<()> {
        // Room for header, lengths and attributes; a prefix takes five bytes at most.
        for some in routes.chunks((MAX - 64) / 5) {
            let prefixes: Vec<u8> = some.iter().flat_map(prefix).collect();
            self.stream.write_all(&message(UPDATE, &update(&prefixes))).context("bgpd closed the session")?;
        }
        Ok(())
    }
}

/// Length in bits, then as many bytes as hold them.
fn prefix(net: &Ipv4Net) -> impl Iterator<Item = u8> + use<> {
    let bytes = usize::from(net.prefix_len().div_ceil(8));
    std::iter::once(net.prefix_len()).chain(net.addr().octets().into_iter().take(bytes))
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&MARKER[..], &length, &[kind], body].concat()
}

/// Reads one message; returns its type.
fn receive(stream: &mut TcpStream) -> Result<u8> {
    let mut header = [0; 19];
    stream.read_exact(&mut header).context("bgpd closed the session")?;
    let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
    let mut body = vec![0; length.saturating_sub(header.len())];
    stream.read_exact(&mut body)?;
    Ok(header[18])
}

/// Reads and forgets, so that bgpd never waits for us. Ends with the session.
fn drain(mut stream: TcpStream) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer) {
                Ok(1..) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                _ => return,
            }
        }
    });
}

impl Drop for Speaker {
    fn drop(&mut self) {
        // The reader holds a copy of the socket.
        self.stream.shutdown(std::net::Shutdown::Both).ok();
    }
}
