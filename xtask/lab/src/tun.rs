//! Tun devices: packets without L2 header, through a file.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::namespace::Namespace;
use crate::traffic::Background;

/// How long the threads wait before they look whether they shall end, in milliseconds.
const TICK: u16 = 50;

/// Makes a tun device, up. Reads and writes of the file are packets without a header of the device's own, and do not block. The
/// device goes with the file.
///
/// # Errors
/// When there is no `/dev/net/tun`, or the name is taken.
pub fn open_tun(namespace: &Namespace, name: &str) -> Result<File> {
    let file = namespace.enter(|| -> Result<File> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let file = options.open("/dev/net/tun").context("cannot open /dev/net/tun")?;
        set_name(&file, name).with_context(|| format!("cannot make {name}"))?;
        Ok(file)
    })??;
    namespace.run(&format!("ip link set {name} up"))?;
    Ok(file)
}

#[expect(unsafe_code, reason = "no crate here opens a tun device")]
fn set_name(file: &File, name: &str) -> Result<()> {
    // SAFETY: an integer struct, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI)?;
    // SAFETY: the file is open, the request lives during the call.
    Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(())
}

/// Two tun devices, each of which receives what the other sends. Both go when it is dropped.
#[derive(Debug)]
pub struct TunPair {
    _threads: [Background; 2],
}

impl TunPair {
    /// Makes a device of this name in both namespaces.
    ///
    /// # Errors
    /// See [`open_tun`].
    pub fn new(a: &Namespace, b: &Namespace, name: &str) -> Result<Self> {
        let (a, b) = (open_tun(a, name)?, open_tun(b, name)?);
        let back = (b.try_clone()?, a.try_clone()?);
        Ok(Self { _threads: [forward(a, b), forward(back.0, back.1)] })
    }
}

/// Copies packets until told to end.
fn forward(mut from: File, mut to: File) -> Background {
    Background::start(move |stop| {
        let mut packet = [0; 65536];
        while !stop.load(Ordering::Relaxed) {
            let mut ready = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
            // Whatever it says, the read tells.
            poll(&mut ready, PollTimeout::from(TICK)).ok();
            while let Ok(length) = from.read(&mut packet) {
                // What the other one refuses is lost, as on a wire.
                packet.get(..length).map(|packet| to.write(packet));
            }
        }
    })
}
