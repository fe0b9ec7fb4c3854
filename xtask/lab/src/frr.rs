//! Real FRR in a namespace: daemons started by hand, each with sockets and files of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::process::{Process, output};
use crate::wait_until;

/// Where Debian and Ubuntu put the daemons.
const DAEMONS: &str = "/usr/lib/frr";

/// Where the virtual machines of `cargo xtask vm` have the FRR that belongs to their kernel's release.
pub const GUEST_FRR: &str = "/frr";

/// A version of FRR: major and minor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// An installed FRR: the distribution's, or one in a folder to `chroot` into.
#[derive(Debug, Clone)]
pub struct FrrInstall {
    root: Option<PathBuf>,
    version: Version,
}

impl FrrInstall {
    /// The host's own.
    ///
    /// # Errors
    /// When the package `frr` is not installed.
    pub fn host() -> Result<Self> {
        Self::probe(None)
    }

    /// The one within a root folder, as [`crate::obtain_suite`] makes it.
    ///
    /// # Errors
    /// When FRR does not run there.
    pub fn within(root: &Path) -> Result<Self> {
        Self::probe(Some(root.to_owned()))
    }

    /// The one that a virtual machine has in [`GUEST_FRR`], else the host's own.
    ///
    /// # Errors
    /// When FRR does not run there.
    pub fn here() -> Result<Self> {
        let guest = Path::new(GUEST_FRR);
        if guest.is_dir() { Self::within(guest) } else { Self::host() }
    }

    fn probe(root: Option<PathBuf>) -> Result<Self> {
        let mut install = Self { root, version: Version(0, 0) };
        let text = output(install.command(&format!("{DAEMONS}/zebra")).arg("--version"))
            .context("FRR is not there: install the package frr")?;
        install.version = parse_version(&text).with_context(|| format!("no version in: {text}"))?;
        Ok(install)
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether its zebra acts on what an FPM server tells it (8.5 to 10.2, 10.4 and newer).
    #[must_use]
    pub fn takes_feedback(&self) -> bool {
        self.version >= Version(8, 5) && self.version != Version(10, 3)
    }

    /// Whether zebra has `-R` (9.1 or newer), which leaves main to Backtrail.
    #[must_use]
    pub fn can_divert(&self) -> bool {
        self.version >= Version(9, 1)
    }

    fn command(&self, program: &str) -> Command {
        match &self.root {
            None => Command::new(program),
            Some(root) => {
                let mut command = Command::new("chroot");
                command.arg(root).arg(program);
                command
            }
        }
    }

    /// A path of FRR's, as this program sees it.
    fn path(&self, inside: &str) -> PathBuf {
        self.root
            .as_ref()
            .map_or_else(|| PathBuf::from(inside), |root| root.join(inside.trim_start_matches('/')))
    }

    fn has(&self, daemon: Daemon) -> bool {
        self.path(DAEMONS).join(daemon.name()).exists()
    }
}

fn parse_version(text: &str) -> Option<Version> {
    let number = text.split_whitespace().skip_while(|word| *word != "version").nth(1)?;
    let mut parts = number.split(|c: char| !c.is_ascii_digit());
    Some(Version(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The daemons that a lab can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Daemon {
    /// Management daemon of FRR 9 and newer; zebra and staticd of 10 want it.
    Mgmtd,
    /// The RIB and FPM.
    Zebra,
    /// BGP.
    Bgpd,
    /// Static routes.
    Staticd,
    /// BFD.
    Bfdd,
}

impl Daemon {
    const ALL: [Self; 5] = [Self::Mgmtd, Self::Zebra, Self::Bgpd, Self::Staticd, Self::Bfdd];

    /// Name of its program.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mgmtd => "mgmtd",
            Self::Zebra => "zebra",
            Self::Bgpd => "bgpd",
            Self::Staticd => "staticd",
            Self::Bfdd => "bfdd",
        }
    }
}

/// How to start FRR.
#[derive(Debug, Clone, Default)]
pub struct FrrOptions {
    /// Load `dplane_fpm_nl` and connect it to 127.0.0.1:2620.
    pub fpm: bool,
    /// `-R`: the kernel table of zebra's default VRF. FRR 9.1 or newer.
    pub table: Option<u32>,
    /// Further options of zebra's command line.
    pub arguments: Vec<String>,
    /// Further lines of zebra's configuration.
    pub zebra: String,
    /// bgpd's configuration.
    pub bgpd: String,
    /// Lines for staticd; the daemon is started where there are any.
    pub staticd: String,
    /// bfdd's configuration; the daemon is started where there is any.
    pub bfdd: String,
}

/// Running FRR. Its daemons are killed when it is dropped.
#[derive(Debug)]
pub struct Frr {
    install: FrrInstall,
    namespace: Namespace,
    /// FRR's own name for a set of sockets and files (`-N`): `/run/frr/PATHSPACE`.
    pathspace: String,
    logs: PathBuf,
    options: FrrOptions,
    processes: BTreeMap<Daemon, Process>,
    keep: bool,
}

impl Frr {
    /// Starts zebra and bgpd (mgmtd where there is one, staticd where it has a configuration), and waits until they answer.
    ///
    /// # Errors
    /// When a daemon does not start; with the end of its log.
    pub fn start(
        lab: &Lab,
        namespace: &Namespace,
        install: &FrrInstall,
        options: FrrOptions,
    ) -> Result<Self> {
        ensure!(
            options.table.is_none() || install.can_divert(),
            "zebra -R needs FRR 9.1 or newer; this is {}",
            install.version()
        );
        let mut frr = Self {
            install: install.clone(),
            namespace: namespace.clone(),
            pathspace: namespace.name().to_owned(),
            logs: lab.dir().to_owned(),
            options,
            processes: BTreeMap::new(),
            keep: lab.is_kept(),
        };
        frr.make_folder()?;
        for daemon in Daemon::ALL {
            if frr.wants(daemon) {
                frr.launch(daemon)?;
            }
        }
        Ok(frr)
    }

    fn wants(&self, daemon: Daemon) -> bool {
        match daemon {
            Daemon::Zebra | Daemon::Bgpd => true,
            Daemon::Mgmtd => self.install.has(daemon),
            Daemon::Staticd => !self.options.staticd.is_empty(),
            Daemon::Bfdd => !self.options.bfdd.is_empty(),
        }
    }

    /// FRR says `/var/run`, which is an absolute link: seen from outside a root folder it would lead to the host's.
    fn run_dir(&self) -> String {
        format!("/run/frr/{}", self.pathspace)
    }

    /// Where its daemons have their sockets, as this program sees it.
    #[must_use]
    pub fn sockets(&self) -> PathBuf {
        self.install.path(&self.run_dir())
    }

    fn make_folder(&self) -> Result<()> {
        let run = self.run_dir();
        let path = self.install.path(&run);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let vtysh = path.join("vtysh.conf");
        fs::write(&vtysh, "").with_context(|| format!("cannot write {}", vtysh.display()))?;
        output(self.install.command("chown").args(["-R", "frr:frr", &run]))?;
        Ok(())
    }

    fn config(&self, daemon: Daemon) -> String {
        match daemon {
            Daemon::Zebra if self.options.fpm => {
                format!("fpm address 127.0.0.1 port 2620\n{}\n", self.options.zebra)
            }
            Daemon::Zebra => self.options.zebra.clone(),
            Daemon::Bgpd => self.options.bgpd.clone(),
            Daemon::Bfdd => self.options.bfdd.clone(),
            // Static routes are fed to the running daemon: from FRR 9 on it reads no file, mgmtd does.
            Daemon::Mgmtd | Daemon::Staticd => String::new(),
        }
    }

    fn launch(&mut self, daemon: Daemon) -> Result<()> {
        let name = daemon.name();
        let file = format!("{}/{name}.conf", self.run_dir());
        let path = self.install.path(&file);
        fs::write(&path, self.config(daemon)).with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = self.install.command(&format!("{DAEMONS}/{name}"));
        command.args(["-N", &self.pathspace, "--log", "stdout", "--log-level", "warnings"]);
        if daemon != Daemon::Mgmtd {
            // No telnet port.
            command.args(["-P", "0"]);
        }
        if matches!(daemon, Daemon::Zebra | Daemon::Bgpd | Daemon::Bfdd) {
            command.args(["-f", &file]);
        }
        if daemon == Daemon::Zebra {
            if self.options.fpm {
                command.args(["-M", "dplane_fpm_nl"]);
            }
            if let Some(table) = self.options.table {
                command.args(["-R", &table.to_string()]);
            }
            command.args(&self.options.arguments);
        }
        let log = self.logs.join(format!("{}-{name}.log", self.pathspace));
        let mut process = self.namespace.spawn_logged(name, &mut command, &log)?;
        if self.keep {
            process.detach();
        }
        let mut dead = false;
        let answers = wait_until(Duration::from_secs(30), &format!("{name} answers"), || {
            dead = !process.alive();
            dead || output(self.vtysh_command().args(["-d", name, "-c", "show version"])).is_ok()
        });
        if dead || answers.is_err() {
            bail!("{name} of FRR {} did not start:\n{}", self.install.version(), process.log());
        }
        self.processes.insert(daemon, process);
        if daemon == Daemon::Staticd {
            self.configure(&self.options.staticd)?;
        }
        Ok(())
    }

    fn vtysh_command(&self) -> Command {
        let mut command = self.install.command("/usr/bin/vtysh");
        command.args(["-N", &self.pathspace, "--config_dir", &self.run_dir()]);
        command
    }

    /// The command that a person runs to look inside.
    #[must_use]
    pub fn vtysh_hint(&self) -> String {
        let root = self.install.root.as_ref().map(|root| format!("chroot {} ", root.display()));
        format!("{}vtysh -N {} --config_dir {}", root.unwrap_or_default(), self.pathspace, self.run_dir())
    }

    /// The version that runs.
    #[must_use]
    pub fn version(&self) -> Version {
        self.install.version()
    }

    /// Runs vtysh commands, each as one `-c`; returns what they print.
    ///
    /// # Errors
    /// When vtysh fails.
    pub fn vtysh(&self, commands: &[&str]) -> Result<String> {
        let mut command = self.vtysh_command();
        for line in commands {
            command.args(["-c", line]);
        }
        output(&mut command)
    }

    /// Runs one vtysh command that prints JSON.
    ///
    /// # Errors
    /// When vtysh fails or prints something else.
    pub fn json(&self, command: &str) -> Result<Value> {
        let text = self.vtysh(&[command])?;
        serde_json::from_str(&text).with_context(|| format!("'{command}' printed no JSON: {text}"))
    }

    /// Feeds lines of configuration to the running daemons.
    ///
    /// # Errors
    /// When vtysh refuses a line.
    pub fn configure(&self, lines: &str) -> Result<()> {
        let inside = format!("{}/vtysh.in", self.run_dir());
        let path = self.install.path(&inside);
        fs::write(&path, lines).with_context(|| format!("cannot write {}", path.display()))?;
        output(self.vtysh_command().args(["-f", &inside])).map(drop)
    }

    /// Makes BGP announce `prefixes` of one family, thousands in one go.
    ///
    /// # Errors
    /// When vtysh refuses a prefix.
    pub fn announce(&self, asn: u32, prefixes: &[String]) -> Result<()> {
        self.configure(&networks(asn, "", prefixes))
    }

    /// Takes announced prefixes back.
    ///
    /// # Errors
    /// When vtysh refuses a prefix.
    pub fn withdraw(&self, asn: u32, prefixes: &[String]) -> Result<()> {
        self.configure(&networks(asn, "no ", prefixes))
    }

    /// Number of BGP sessions that are established.
    ///
    /// # Errors
    /// When bgpd does not answer.
    pub fn established(&self) -> Result<usize> {
        let summary = self.json("show bgp summary json")?;
        let mut peers = BTreeMap::new();
        for family in summary.as_object().into_iter().flat_map(|families| families.values()) {
            for (name, peer) in family.get("peers").and_then(Value::as_object).into_iter().flatten() {
                peers.insert(name.clone(), peer.get("state").and_then(Value::as_str) == Some("Established"));
            }
        }
        Ok(peers.into_values().filter(|up| *up).count())
    }

    /// Waits until `sessions` BGP sessions are established.
    ///
    /// # Errors
    /// With the state of the sessions, when that takes longer than `timeout`.
    pub fn wait_established(&self, sessions: usize, timeout: Duration) -> Result<()> {
        let what = format!("{sessions} BGP sessions in {}", self.namespace.name());
        let waited = wait_until(timeout, &what, || self.established().is_ok_and(|up| up >= sessions));
        if waited.is_err() {
            return waited.map(drop).with_context(|| self.vtysh(&["show bgp summary"]).unwrap_or_default());
        }
        Ok(())
    }

    /// Kills one daemon (SIGKILL).
    ///
    /// # Errors
    /// When it was not running.
    pub fn kill(&mut self, daemon: Daemon) -> Result<()> {
        let mut process = self.processes.remove(&daemon).with_context(|| format!("no {}", daemon.name()))?;
        process.kill().map(drop)
    }

    /// Starts a daemon again with its configuration, killing it first where it runs. bgpd does not tell a restarted zebra
    /// its routes: watchfrr restarts bgpd too, so should the caller.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self, daemon: Daemon) -> Result<()> {
        self.processes.remove(&daemon);
        self.launch(daemon)
    }

    /// The log of a daemon.
    #[must_use]
    pub fn log(&self, daemon: Daemon) -> String {
        self.processes.get(&daemon).map(Process::log).unwrap_or_default()
    }
}

impl Drop for Frr {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        self.processes.clear();
        // In a drop nobody is left to report to.
        fs::remove_dir_all(self.install.path(&self.run_dir())).ok();
    }
}

fn networks(asn: u32, no: &str, prefixes: &[String]) -> String {
    let mut text = format!("router bgp {asn}\n");
    for (family, six) in [("ipv4", false), ("ipv6", true)] {
        let mut of_family = prefixes.iter().filter(|prefix| prefix.contains(':') == six).peekable();
        if of_family.peek().is_none() {
            continue;
        }
        let _ = writeln!(text, " address-family {family} unicast");
        for prefix in of_family {
            let _ = writeln!(text, "  {no}network {prefix}");
        }
        text.push_str(" exit-address-family\n");
    }
    text.push_str("exit\n");
    text
}
