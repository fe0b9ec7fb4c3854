//! The container image: made twice, and run by runc as the DaemonSet in `deploy/` says, without Docker or Kubernetes.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{End, Lab, Namespace, Process, output, wait_until};
use serde_json::{Value, json};

/// A return path, a table of its own and a rule: every capability is needed.
const MANIFESTS: &str = "
apiVersion: backtrail.dev/v1alpha1
kind: ReturnPath
metadata: {name: lb}
spec:
  interfaces: [{name: up0}]
---
apiVersion: backtrail.dev/v1alpha1
kind: VRFAttachment
metadata: {name: red}
spec:
  vrf: {name: red, table: 10020}
  interfaces: [{name: up0}]
---
apiVersion: backtrail.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: red}
spec:
  rules:
  - {name: red, match: {destinations: [10.20.0.0/16]}, action: {vrf: {name: red, table: 10020}, ifUnavailable: Drop}}
";
const WAIT: Duration = Duration::from_secs(60);

/// The agent as built for the tests, beside this task.
fn agent() -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_xtask")).with_file_name("backtrail");
    ensure!(path.exists(), "{} is not built: cargo build -p backtrail", path.display());
    Ok(path)
}

/// `cargo xtask image`; returns what it prints.
fn image(binary: &Path, to: &Path) -> Result<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    output(command.arg("image").arg("--binary").arg(binary).arg("--output").arg(to))
}

#[test]
#[ignore = "needs a built agent: cargo xtask test netns"]
fn an_image_depends_on_its_content_alone() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // Another name, another time, another owner's umask: none of it is content.
    let copy = folder.path().join("agent");
    fs::copy(agent()?, &copy)?;
    let (first, again) = (folder.path().join("first.tar"), folder.path().join("again.tar"));
    let said = [image(&agent()?, &first)?, image(&copy, &again)?];
    let digest =
        |said: &String| said.split_whitespace().find(|word| word.starts_with("sha256:")).map(str::to_owned);
    ensure!(digest(&said[0]).is_some() && digest(&said[0]) == digest(&said[1]), "{said:?}");
    ensure!(fs::read(&first)? == fs::read(&again)?, "the archives differ");
    Ok(())
}

/// The DaemonSet's pod, as YAML has it.
fn pod() -> Result<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kustomize/base/daemonset.yaml");
    let daemonset: Value = serde_saphyr::from_str(&fs::read_to_string(path)?)?;
    Ok(daemonset.pointer("/spec/template/spec").context("no pod")?.clone())
}

/// A mount of a runtime configuration.
fn bind(from: &Path, to: &str, mode: &str) -> Value {
    json!({"destination": to, "type": "bind", "source": from, "options": ["rbind", mode]})
}

/// What stands for the node: its folders, and its network namespace.
struct Node {
    folder: PathBuf,
    namespace: Namespace,
    bpffs: PathBuf,
    _router: Namespace,
}

impl Node {
    /// Where a path of the node is here.
    fn path(&self, path: &str) -> PathBuf {
        match path.strip_prefix("/sys/fs/bpf") {
            Some(rest) => self.bpffs.join(rest.trim_start_matches('/')),
            // It shows the sysctls of the network namespace of whoever reads it.
            None if path == "/proc/sys/net" => path.into(),
            None => self.folder.join(path.trim_start_matches('/')),
        }
    }

    /// Makes what `DirectoryOrCreate` makes, and writes an OCI runtime configuration (runtime-spec 1.0, `config.md`).
    fn bundle(&self, rootfs: &Path, name: &str, arguments: &[String]) -> Result<PathBuf> {
        let pod = pod()?;
        let container = pod.pointer("/containers/0").context("no container")?;
        let list =
            |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        let text = |value: &Value, pointer: &str| {
            value
                .pointer(pointer)
                .and_then(Value::as_str)
                .map(str::to_owned)
                .with_context(|| format!("no {pointer}"))
        };
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}),
            json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}),
            bind(&self.folder.join("manifests"), "/etc/backtrail", "ro"),
        ];
        for mount in list(container, "volumeMounts") {
            let name = text(&mount, "/name")?;
            let volumes = list(&pod, "volumes");
            let volume = volumes.iter().find(|volume| volume.get("name") == mount.get("name"));
            let host = text(volume.with_context(|| format!("no volume {name}"))?, "/hostPath/path")?;
            let from = self.path(&host);
            fs::create_dir_all(&from).with_context(|| format!("cannot make {}", from.display()))?;
            mounts.push(bind(&from, &text(&mount, "/mountPath")?, "rw"));
        }
        let security = container.get("securityContext").context("no securityContext")?;
        let granted = list(security.get("capabilities").context("no capabilities")?, "add");
        let capabilities: Vec<String> =
            granted.iter().filter_map(Value::as_str).map(|name| format!("CAP_{name}")).collect();
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": security["runAsUser"], "gid": security["runAsGroup"]},
                "cwd": "/",
                "args": arguments,
                "env": ["PATH=/usr/bin"],
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
                "noNewPrivileges": security["allowPrivilegeEscalation"] == false,
            },
            "root": {"path": rootfs, "readonly": security["readOnlyRootFilesystem"]},
            "mounts": mounts,
            "linux": {
                "namespaces": [
                    {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                    {"type": "network", "path": Path::new("/run/netns").join(self.namespace.name())},
                ],
                "maskedPaths": ["/proc/kcore", "/sys/firmware"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            },
        });
        let bundle = self.folder.join(name);
        fs::create_dir_all(&bundle)?;
        fs::write(bundle.join("config.json"), config.to_string())?;
        Ok(bundle)
    }

    /// The agent's arguments in the DaemonSet, with manifests from a file: there is no API server here.
    fn arguments() -> Result<Vec<String>> {
        let pod = pod()?;
        let given = pod.pointer("/containers/0/args").and_then(Value::as_array).context("no args")?;
        let given = given.iter().filter_map(Value::as_str).map(|argument| match argument {
            "--kubernetes" => "--config=/etc/backtrail".to_owned(),
            other => other.replace("$(NODE_NAME)", "w1").replace("$(METRICS_LISTEN)", "127.0.0.1:9472"),
        });
        Ok(std::iter::once("/usr/bin/backtrail".to_owned()).chain(given).collect())
    }

    fn runc(&self) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.folder.join("runc"));
        command
    }

    /// runc knows containers by names of the whole machine.
    fn container(&self, name: &str) -> String {
        format!("{}-{name}", self.namespace.name())
    }

    /// Starts a container; its log is `NAME.log`.
    fn start(&self, bundle: &Path, name: &str) -> Result<Process> {
        let mut command = self.runc();
        command.arg("run").arg("--bundle").arg(bundle).arg(self.container(name));
        Process::start(name, &mut command, &self.folder.join(format!("{name}.log")))
    }

    /// Runs a container to its end; returns what it prints.
    fn run(&self, bundle: &Path, name: &str) -> Result<String> {
        output(self.runc().arg("run").arg("--bundle").arg(bundle).arg(self.container(name)))
    }
}

/// The root filesystem of the image, unpacked by umoci.
fn unpacked(folder: &Path) -> Result<PathBuf> {
    let archive = folder.join("image.tar");
    image(&agent()?, &archive)?;
    let layout = folder.join("layout");
    fs::create_dir(&layout)?;
    output(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&layout))?;
    let reference = format!("{}:{}", layout.display(), env!("CARGO_PKG_VERSION"));
    let bundle = folder.join("unpacked");
    output(Command::new("umoci").args(["unpack", "--image", &reference]).arg(&bundle))?;
    Ok(bundle.join("rootfs"))
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success())
}

/// Whether a probe of the kubelet's would find the agent well.
fn answers(namespace: &Namespace, path: &str) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect("127.0.0.1:9472")?;
        stream.set_read_timeout(Some(WAIT))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    namespace.enter(ask).is_ok_and(|answer| answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 ")))
}

impl Node {
    fn new(lab: &Lab) -> Result<Self> {
        let (namespace, router) = (lab.namespace("node")?, lab.namespace("router")?);
        lab.connect(
            &End::new(&namespace, "up0", &["192.0.2.2/24"]),
            &End::new(&router, "eth0", &["192.0.2.1/24"]),
        )?;
        namespace.sysctl("net.ipv4.conf.up0.rp_filter", "1")?;
        let node = Self { folder: lab.dir().join("host"), bpffs: lab.bpffs()?, namespace, _router: router };
        fs::create_dir_all(node.folder.join("manifests"))?;
        fs::write(node.folder.join("manifests/all.yaml"), MANIFESTS)?;
        Ok(node)
    }

    /// Why no container can be had here: told by one without our image.
    fn runs_nothing(&self) -> Result<Option<String>> {
        let rootfs = self.folder.join("rootfs");
        let bundle = self.bundle(&rootfs, "plain", &["/bin/true".to_owned()])?;
        let path = bundle.join("config.json");
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
        let mut mounts = vec![json!({"destination": "/proc", "type": "proc", "source": "proc"})];
        for folder in
            ["/bin", "/lib", "/lib64", "/usr"].into_iter().filter(|folder| Path::new(folder).is_dir())
        {
            mounts.push(bind(Path::new(folder), folder, "ro"));
        }
        fs::create_dir_all(&rootfs)?;
        config["mounts"] = json!(mounts);
        // A read-only root lets runc make no mount points.
        config["root"]["readonly"] = json!(false);
        fs::write(&path, config.to_string())?;
        Ok(self.run(&bundle, "plain").err().map(|error| format!("{error:#}")))
    }

    /// Everything that the manifests ask for is in force, and on the node.
    fn ensure_in_force(&self) -> Result<()> {
        wait_until(WAIT, "the probes answer", || {
            ["/healthz", "/readyz"].iter().all(|path| answers(&self.namespace, path))
        })?;
        let mut status = Command::new(agent()?);
        status.args(["status", "--run-dir"]).arg(self.path("/run/backtrail"));
        wait_until(WAIT, "everything is in force", || output(&mut status).is_ok())?;
        let rules = self.namespace.run("ip rule show")?;
        ensure!(rules.contains("to 10.20.0.0/16 lookup 10020"), "{rules}");
        ensure!(self.namespace.read_sysctl("net.ipv4.conf.up0.rp_filter")? == "2", "rp_filter was not set");
        ensure!(
            self.path("/sys/fs/bpf/backtrail/rp_flows").exists(),
            "nothing is pinned on the node's bpffs"
        );
        Ok(())
    }
}

#[test]
#[ignore = "needs root, network namespaces, runc and umoci: cargo xtask test netns"]
fn the_image_runs_as_the_daemonset_says() -> Result<()> {
    const TEST: &str = "the_image_runs_as_the_daemonset_says";
    if let Some(missing) = ["runc", "umoci"].into_iter().find(|program| !is_there(program)) {
        println!("SKIPPED {TEST}: no {missing}");
        return Ok(());
    }
    let lab = Lab::new("image")?;
    let node = Node::new(&lab)?;
    if let Some(why) = node.runs_nothing()? {
        println!("SKIPPED {TEST}: runc runs nothing here: {why}");
        return Ok(());
    }
    let rootfs = unpacked(lab.dir())?;
    let bundle = node.bundle(&rootfs, "agent", &Node::arguments()?)?;
    // The second one finds what the first has pinned: with the same privileges, as after an upgrade.
    for name in ["first", "second"] {
        let mut container = node.start(&bundle, name)?;
        container.wait_for_line("backtrail ready", 0, WAIT)?;
        node.ensure_in_force().with_context(|| container.log())?;
        output(node.runc().args(["kill", &node.container(name), "KILL"]))?;
        wait_until(WAIT, "the container is gone", || !container.alive())?;
        let rules = node.namespace.run("ip rule show")?;
        ensure!(rules.contains("to 10.20.0.0/16"), "rules went with the agent: {rules}");
    }
    let folders =
        Node::arguments()?.into_iter().filter(|a| a.starts_with("--bpffs") || a.starts_with("--sysctls"));
    let cleanup = ["/usr/bin/backtrail", "cleanup"].map(str::to_owned).into_iter().chain(folders);
    let said = node.run(&node.bundle(&rootfs, "cleanup", &cleanup.collect::<Vec<_>>())?, "cleanup")?;
    ensure!(!node.namespace.run("ip rule show")?.contains("10.20.0.0/16"), "{said}");
    ensure!(node.namespace.read_sysctl("net.ipv4.conf.up0.rp_filter")? == "1", "{said}");
    ensure!(!node.path("/sys/fs/bpf/backtrail/rp_flows").exists(), "{said}");
    Ok(())
}
