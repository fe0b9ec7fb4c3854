//! The agent as a process, driven through its command line alone.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::process::{Process, output};

/// Capabilities that an agent runs with: those of the DaemonSet in `deploy/`, and no others.
pub const CAPABILITIES: [&str; 3] = ["net_admin", "bpf", "perfmon"];

/// How to start an agent.
#[derive(Debug, Clone, Default)]
pub struct AgentOptions {
    /// Manifests, as they stand in a file.
    pub manifests: String,
    /// Further arguments of `backtrail agent`.
    pub arguments: Vec<String>,
    /// Configured by a cluster instead of manifests.
    pub cluster: Option<InCluster>,
    /// Capabilities beyond [`CAPABILITIES`], as an agent on the host itself has them: `sys_ptrace` shows it the
    /// processes of other users.
    pub capabilities: &'static [&'static str],
    /// Further variables of its environment.
    pub environment: Vec<(String, String)>,
}

/// An agent as a part of a cluster.
#[derive(Debug, Clone)]
pub struct InCluster {
    /// Says where the API server is and who the agent is.
    pub kubeconfig: PathBuf,
    /// Name of its Node.
    pub node: String,
}

/// An agent in a namespace, with a run folder, a state folder, a bpffs of its own, and the privileges that it is shipped
/// with ([`CAPABILITIES`]). Killed when dropped.
#[derive(Debug)]
pub struct Agent {
    binary: PathBuf,
    namespace: Namespace,
    folder: PathBuf,
    bpffs: PathBuf,
    arguments: Vec<String>,
    cluster: Option<InCluster>,
    capabilities: Vec<&'static str>,
    environment: Vec<(String, String)>,
    process: Option<Process>,
    keep: bool,
}

impl Agent {
    /// Prepares an agent without starting it: its manifests are written, the other commands can be run.
    ///
    /// # Errors
    /// When its folders cannot be made or bpffs not be mounted.
    pub fn prepare(lab: &Lab, namespace: &Namespace, binary: &Path, options: AgentOptions) -> Result<Self> {
        let folder = lab.dir().join(format!("agent-{}", namespace.name()));
        for name in ["run", "state"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let agent = Self {
            binary: binary.to_owned(),
            namespace: namespace.clone(),
            bpffs: lab.bpffs()?.join(format!("backtrail-{}", namespace.name())),
            folder,
            arguments: options.arguments,
            cluster: options.cluster,
            capabilities: [&CAPABILITIES, options.capabilities].concat(),
            environment: options.environment,
            process: None,
            keep: lab.is_kept(),
        };
        agent.write_manifests(&options.manifests)?;
        Ok(agent)
    }

    /// Starts an agent and waits for `backtrail ready`.
    ///
    /// # Errors
    /// With the end of its log, when it does not become ready.
    pub fn start(lab: &Lab, namespace: &Namespace, binary: &Path, options: AgentOptions) -> Result<Self> {
        let mut agent = Self::prepare(lab, namespace, binary, options)?;
        agent.run()?;
        Ok(agent)
    }

    /// Starts the prepared or stopped agent and waits for `backtrail ready`.
    ///
    /// # Errors
    /// With the end of its log, when it does not become ready.
    pub fn run(&mut self) -> Result<()> {
        let log = self.folder.join("agent.log");
        let from = fs::metadata(&log).map_or(0, |metadata| metadata.len());
        // As root without other capabilities, as a container has them.
        let mut command = Command::new("setpriv");
        command
            .args(["--bounding-set", &format!("-all,+{}", self.capabilities.join(",+"))])
            .args(["--inh-caps", "-all", "--no-new-privs"])
            .arg(&self.binary)
            .arg("agent")
            .args(self.folders())
            .args(&self.arguments)
            .envs(self.environment.iter().cloned());
        match &self.cluster {
            None => command.arg("--config").arg(self.config_path()),
            Some(InCluster { kubeconfig, node }) => {
                command.args(["--kubernetes", "--node-name", node]).env("KUBECONFIG", kubeconfig)
            }
        };
        let mut process = self.namespace.spawn_logged("backtrail agent", &mut command, &log)?;
        if self.keep {
            process.detach();
        }
        let from = usize::try_from(from).context("length of the log")?;
        process.wait_for_line("backtrail ready", from, Duration::from_secs(60))?;
        self.process = Some(process);
        Ok(())
    }

    fn folders(&self) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        vec![
            "--run-dir".to_owned(),
            text(&self.folder.join("run")),
            "--state-dir".to_owned(),
            text(&self.folder.join("state")),
            "--bpffs".to_owned(),
            text(&self.bpffs),
        ]
    }

    /// Empties its `--state-dir`, as a node's new installation does.
    ///
    /// # Errors
    /// When the folder cannot be made anew.
    pub fn forget(&self) -> Result<()> {
        let state = self.folder.join("state");
        fs::remove_dir_all(&state)
            .and_then(|()| fs::create_dir(&state))
            .with_context(|| format!("cannot empty {}", state.display()))
    }

    /// Its manifest file.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.folder.join("backtrail.yaml")
    }

    /// Its `--run-dir`.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// Its `--bpffs`.
    #[must_use]
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Replaces its manifest file; a running agent sees that by itself.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_manifests(&self, yaml: &str) -> Result<()> {
        // Renamed into place, as editors do: no reader sees half a file.
        let new = self.folder.join("backtrail.yaml.new");
        fs::write(&new, yaml).with_context(|| format!("cannot write {}", new.display()))?;
        fs::rename(&new, self.config_path()).context("cannot replace the manifests")
    }

    /// Runs `backtrail ARGUMENTS… --run-dir …` in the namespace; returns what it prints, exit status 0 or 2.
    ///
    /// # Errors
    /// With what it printed, when its exit status is another.
    pub fn command(&self, arguments: &[&str]) -> Result<(i32, String)> {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("--run-dir").arg(self.run_dir());
        let out = self.namespace.enter(|| command.output())?.context("cannot start backtrail")?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        match out.status.code() {
            Some(code @ (0 | 2)) => Ok((code, text)),
            _ => anyhow::bail!("{command:?}: {}: {}{text}", out.status, String::from_utf8_lossy(&out.stderr)),
        }
    }

    /// Like [`Agent::command`] with `-o json`, parsed.
    ///
    /// # Errors
    /// When it fails or prints no JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        let (_, text) = self.command(&all)?;
        serde_json::from_str(&text)
            .with_context(|| format!("backtrail {arguments:?} printed no JSON: {text}"))
    }

    /// The value of a sample of its metrics, by name and labels as they stand on the page; 0 where there is none.
    ///
    /// # Errors
    /// When its metrics are not served.
    pub fn metric(&self, sample: &str) -> Result<u64> {
        let page = self.namespace.enter(|| -> std::io::Result<String> {
            let mut stream = TcpStream::connect("127.0.0.1:9472")?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            let mut page = String::new();
            stream.read_to_string(&mut page)?;
            Ok(page)
        })??;
        let line = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        Ok(line.and_then(|value| value.trim().parse::<f64>().ok()).unwrap_or(0.0) as u64)
    }

    /// Memory that it holds now, in bytes (`VmRSS` of proc(5)).
    ///
    /// # Errors
    /// When it does not run.
    pub fn memory(&mut self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.process()?.pid());
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok(kib.context("no VmRSS")? * 1024)
    }

    /// `backtrail cleanup`: removes all that the stopped agent owns.
    ///
    /// # Errors
    /// When it fails.
    pub fn cleanup(&self) -> Result<String> {
        let mut command = Command::new(&self.binary);
        command.arg("cleanup").args(self.folders());
        self.namespace.enter(|| output(&mut command))?
    }

    /// Everything that it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("agent.log")).unwrap_or_default()
    }

    /// The running process.
    ///
    /// # Errors
    /// When it was stopped.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the agent does not run")
    }

    /// SIGHUP: read the manifests again.
    ///
    /// # Errors
    /// When it does not run.
    pub fn reload(&mut self) -> Result<()> {
        self.process()?.signal(Signal::SIGHUP)
    }

    /// SIGTERM, then waits for its end.
    ///
    /// # Errors
    /// When it does not end within 20 s.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let status = self.process()?.stop(Duration::from_secs(20))?;
        self.process = None;
        Ok(status)
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.process()?.kill()?;
        self.process = None;
        Ok(())
    }
}
