//! The host as files show it: processes of this network namespace, sockets, sysctls, configuration.

pub(crate) mod zebra;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// A tree with `proc`, `sys` and `etc`.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    root: PathBuf,
}

/// A process of this network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// At most 15 bytes (`/proc/PID/comm`).
    pub(crate) name: String,
    pub(crate) arguments: Vec<String>,
    /// What it runs, where its files are ours (same mount namespace, same root).
    pub(crate) program: Option<PathBuf>,
}

/// A TCP socket of this network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TcpSocket {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) state: TcpState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TcpState {
    Established,
    Listen,
    Other,
}

impl Host {
    /// The host that this process runs on.
    pub(crate) fn here() -> Self {
        Self { root: PathBuf::from("/") }
    }

    #[cfg(test)]
    pub(crate) fn at(root: &std::path::Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// An absolute path of the host, in the tree that is read.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A file's content without the final newline.
    pub(crate) fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok().map(|text| text.trim_end().to_owned())
    }

    /// A sysctl: `net/ipv4/conf/all/rp_filter`.
    pub(crate) fn sysctl(&self, name: &str) -> Option<String> {
        self.read(&format!("/proc/sys/{name}"))
    }

    /// Names of a directory's entries, sorted; none where it cannot be read.
    pub(crate) fn list(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Processes of this network namespace, by pid. Those of others are not ours to judge.
    pub(crate) fn processes(&self) -> Vec<Process> {
        let link = |pid: &str, what: &str| fs::read_link(self.path(&format!("/proc/{pid}/{what}"))).ok();
        let ours = |what| link("self", what);
        let (net, mount, root) = (ours("ns/net"), ours("ns/mnt"), ours("root"));
        let mut found: Vec<Process> = self
            .list("/proc")
            .iter()
            .filter(|pid| net.is_some() && link(pid, "ns/net") == net)
            .filter_map(|name| {
                let pid = name.parse().ok()?;
                let arguments = self.read(&format!("/proc/{name}/cmdline"))?;
                Some(Process {
                    pid,
                    name: self.read(&format!("/proc/{name}/comm"))?,
                    arguments: arguments.trim_end_matches('\0').split('\0').map(str::to_owned).collect(),
                    program: link(name, "exe")
                        .filter(|_| link(name, "ns/mnt") == mount && link(name, "root") == root),
                })
            })
            .collect();
        found.sort_by_key(|process| process.pid);
        found
    }

    /// TCP sockets of this network namespace.
    pub(crate) fn tcp_sockets(&self) -> Vec<TcpSocket> {
        ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
            .iter()
            .filter_map(|path| self.read(path))
            .flat_map(|text| text.lines().skip(1).filter_map(tcp_socket).collect::<Vec<_>>())
            .collect()
    }

    /// Values of a key in ini files: `DIR/NAME` and `DIR/NAME.d/*.conf` under `/etc`, `/run`, `/usr/lib`, the deciding one
    /// (systemd: later file names win, whatever their directory; the main file counts least).
    pub(crate) fn ini(&self, directory: &str, name: &str, key: &str) -> Option<String> {
        let roots = ["/usr/lib", "/run", "/etc"];
        let mains = roots.iter().map(|root| format!("{root}/{directory}/{name}"));
        // Of two files with one name the one of the later root masks the other.
        let mut drops: BTreeMap<String, String> = BTreeMap::new();
        for root in roots {
            let folder = format!("{root}/{directory}/{name}.d");
            let files = self.list(&folder).into_iter().filter(|file| file.ends_with(".conf"));
            drops.extend(files.map(|file| (file.clone(), format!("{folder}/{file}"))));
        }
        mains
            .chain(drops.into_values())
            .filter_map(|path| self.read(&path))
            .flat_map(|text| text.lines().filter_map(|line| assignment(line, key)).collect::<Vec<_>>())
            .next_back()
    }
}

fn assignment(line: &str, key: &str) -> Option<String> {
    let (name, value) = line.trim().split_once('=')?;
    (name.trim() == key).then(|| value.trim().to_owned())
}

/// A line of `/proc/net/tcp`: `sl local remote st …`, addresses as hex words in host byte order (proc(5)).
fn tcp_socket(line: &str) -> Option<TcpSocket> {
    let mut words = line.split_whitespace().skip(1);
    Some(TcpSocket {
        local: socket_address(words.next()?)?,
        remote: socket_address(words.next()?)?,
        state: match words.next()? {
            "01" => TcpState::Established,
            "0A" => TcpState::Listen,
            _ => TcpState::Other,
        },
    })
}

fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Vec<[u8; 4]> = (0..address.len())
        .step_by(8)
        .map(|at| {
            let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
            Some(word.to_ne_bytes())
        })
        .collect::<Option<_>>()?;
    let ip = match words[..] {
        [word] => IpAddr::from(Ipv4Addr::from(word)),
        [_, _, _, _] => {
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}
