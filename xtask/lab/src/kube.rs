//! A real kube-apiserver with its etcd, in a namespace of the lab.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::process::{Process, output};
use crate::suite::cache_dir;
use crate::wait_until;

/// The version that tests run with; it goes with k8s-openapi's feature in the workspace's `Cargo.toml`.
pub const KUBERNETES: &str = "v1.33.13";

/// The version of Helm that the chart is tested with; any Helm 3 will do.
pub const HELM: &str = "v3.21.4";

/// Programs that a folder of assets holds.
const PROGRAMS: [&str; 3] = ["kube-apiserver", "etcd", "kubectl"];
/// A slow machine compiles the schemas of all APIs for a while.
const START: Duration = Duration::from_secs(300);
const PORT: u16 = 6443;
const ADMIN_TOKEN: &str = "admin-of-the-lab";

/// Requests are recorded with who made them, so that tests can count writes.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- level: None
  userGroups: [system:masters]
- level: Metadata
";

/// The folder with kube-apiserver, etcd and kubectl: `KUBEBUILDER_ASSETS`, else the one that `cargo xtask kube-assets` made.
#[must_use]
pub fn kube_assets() -> Option<PathBuf> {
    let given = std::env::var_os("KUBEBUILDER_ASSETS").filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = given.unwrap_or_else(|| cache_dir().join(format!("kubernetes-{KUBERNETES}")));
    PROGRAMS.iter().all(|name| folder.join(name).is_file()).then_some(folder)
}

/// Helm: of `PATH`, else the one that `cargo xtask kube-assets` made.
#[must_use]
pub fn helm() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let made = cache_dir().join(format!("helm-{HELM}"));
    let mut candidates = std::env::split_paths(&path).chain([made]).map(|folder| folder.join("helm"));
    candidates.find(|path| path.is_file())
}

/// A request that the API server has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audited {
    /// `system:serviceaccount:NAMESPACE:NAME`
    pub user: String,
    /// The node that the token is bound to; empty without one.
    pub node: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`
    pub verb: String,
    /// `resource/name`, with the subresource where there is one: `noderoutingstates/w1/status`.
    pub target: String,
    /// HTTP status.
    pub code: u64,
}

impl Audited {
    /// Whether it asked for a change.
    #[must_use]
    pub fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

/// kube-apiserver and etcd with RBAC, admission and service account tokens. Killed when dropped.
#[derive(Debug)]
pub struct ApiServer {
    assets: PathBuf,
    folder: PathBuf,
    namespace: Namespace,
    address: IpAddr,
    etcd: Option<Process>,
    server: Option<Process>,
}

impl ApiServer {
    /// Starts both in a namespace that has `address`, and waits until the server is ready. `Ok(None)`: there are no
    /// programs to run; says so in the form that `cargo xtask test` counts as a skip of `test`.
    ///
    /// # Errors
    /// With the end of the logs, when one of them does not come up.
    pub fn start(lab: &Lab, namespace: &Namespace, address: IpAddr, test: &str) -> Result<Option<Self>> {
        let Some(assets) = kube_assets() else {
            println!(
                "SKIPPED {test}: no kube-apiserver: run `cargo xtask kube-assets`, or set KUBEBUILDER_ASSETS"
            );
            return Ok(None);
        };
        let folder = lab.dir().join("kube");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::write(folder.join("tokens.csv"), format!("{ADMIN_TOKEN},admin,admin,\"system:masters\"\n"))?;
        fs::write(folder.join("audit.yaml"), AUDIT_POLICY)?;
        output(Command::new("openssl").args(["genrsa", "-out"]).arg(folder.join("sa.key")).arg("2048"))?;
        let mut server =
            Self { assets, folder, namespace: namespace.clone(), address, etcd: None, server: None };
        let file = server.kubeconfig("admin", ADMIN_TOKEN, &server.url(), "default")?;
        debug_assert_eq!(file, server.admin());
        server.run()?;
        Ok(Some(server))
    }

    /// Starts what was stopped, with the data that it had.
    ///
    /// # Errors
    /// With the end of the logs, when it does not come up.
    pub fn run(&mut self) -> Result<()> {
        let mut etcd = Command::new(self.assets.join("etcd"));
        etcd.args(["--name", "lab", "--log-level", "warn", "--data-dir"]).arg(self.folder.join("etcd"));
        for (option, port) in [("client", 2379), ("peer", 2380)] {
            let url = format!("http://127.0.0.1:{port}");
            etcd.args([format!("--listen-{option}-urls"), url.clone()]);
            let advertise =
                if option == "client" { "--advertise-client-urls" } else { "--initial-advertise-peer-urls" };
            etcd.args([advertise, &url]);
        }
        etcd.args(["--initial-cluster", "lab=http://127.0.0.1:2380"]);
        self.etcd = Some(self.namespace.spawn_logged("etcd", &mut etcd, &self.folder.join("etcd.log"))?);
        let mut server = Command::new(self.assets.join("kube-apiserver"));
        let file = |name: &str| self.folder.join(name).display().to_string();
        server.args([
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            "--bind-address=0.0.0.0".to_owned(),
            format!("--secure-port={PORT}"),
            format!("--advertise-address={}", self.address),
            format!("--cert-dir={}", file("certs")),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", file("sa.key")),
            format!("--service-account-signing-key-file={}", file("sa.key")),
            "--authorization-mode=RBAC".to_owned(),
            "--allow-privileged=true".to_owned(),
            format!("--token-auth-file={}", file("tokens.csv")),
            format!("--audit-policy-file={}", file("audit.yaml")),
            format!("--audit-log-path={}", file("audit.log")),
        ]);
        let log = self.folder.join("kube-apiserver.log");
        let mut process = self.namespace.spawn_logged("kube-apiserver", &mut server, &log)?;
        let ready = wait_until(START, "kube-apiserver is ready", || {
            !process.alive() || self.try_kubectl(&["get", "--raw", "/readyz"]).is_ok()
        });
        if ready.is_err() || !process.alive() {
            let log = process.log();
            let end: Vec<_> = log.lines().rev().take(30).collect();
            bail!(
                "kube-apiserver does not come up: {}",
                end.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
        self.server = Some(process);
        Ok(())
    }

    /// Kills both; their data stays.
    ///
    /// # Errors
    /// When one of them cannot be waited for.
    pub fn stop(&mut self) -> Result<()> {
        for process in [self.server.take(), self.etcd.take()].iter_mut().flatten() {
            process.kill()?;
        }
        Ok(())
    }

    /// Process ids of kube-apiserver and etcd.
    ///
    /// # Errors
    /// When they were stopped.
    pub fn pids(&self) -> Result<(u32, u32)> {
        let pid = |process: &Option<Process>| process.as_ref().map(Process::pid).context("it does not run");
        Ok((pid(&self.server)?, pid(&self.etcd)?))
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}:{PORT}", self.address)
    }

    /// The folder with the programs.
    #[must_use]
    pub fn assets(&self) -> &Path {
        &self.assets
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn admin(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    /// A kubeconfig with a token of a ServiceAccount that is bound to nothing.
    ///
    /// # Errors
    /// When there is no such account.
    pub fn unbound(&self, namespace: &str, account: &str) -> Result<PathBuf> {
        let token = self.kubectl(&["create", "token", account, "--namespace", namespace])?;
        self.kubeconfig(&format!("{account}-unbound"), token.trim(), &self.url(), namespace)
    }

    /// A kubeconfig with a token of a ServiceAccount, as kubelet would give it to a pod of that account on `node`: it is
    /// bound to that pod, and good for as long as the pod exists, whatever becomes of the Node.
    ///
    /// # Errors
    /// When there is no such account.
    pub fn account(&self, namespace: &str, account: &str, node: &str, url: &str) -> Result<PathBuf> {
        let name = format!("{account}-{node}-token");
        let spec = json!({
            "serviceAccountName": account,
            "nodeName": node,
            "automountServiceAccountToken": false,
            "containers": [{"name": "agent", "image": "none"}],
        });
        let metadata = json!({"name": name, "namespace": namespace});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        self.apply_text(&pod.to_string())?;
        let pod = format!("--bound-object-name={name}");
        let token = ["create", "token", account, "--namespace", namespace, "--bound-object-kind=Pod", &pod];
        let token = self.kubectl(&token)?;
        self.kubeconfig(&format!("{account}-{node}"), token.trim(), url, namespace)
    }

    fn kubeconfig(&self, name: &str, token: &str, url: &str, namespace: &str) -> Result<PathBuf> {
        let mut cluster = json!({"server": url});
        if url.starts_with("https:") {
            // Written by the server at its first start, with the authority that signed it.
            cluster["certificate-authority"] = json!(self.folder.join("certs/apiserver.crt"));
        }
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": "lab", "user": {"token": token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab", "namespace": namespace}}],
        });
        Ok(self.write(&format!("{name}.kubeconfig"), &config.to_string())?.into())
    }

    /// Runs kubectl as the administrator; returns what it prints.
    ///
    /// # Errors
    /// With what it printed, when it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_as(&self.admin(), arguments)
    }

    /// Like [`ApiServer::kubectl`], for what may fail while a test waits.
    ///
    /// # Errors
    /// With what it printed, when it fails.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["--request-timeout=5s"];
        all.extend(arguments);
        self.kubectl(&all)
    }

    /// Runs kubectl with another kubeconfig.
    ///
    /// # Errors
    /// With what it printed, when it fails.
    pub fn kubectl_as(&self, kubeconfig: &Path, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.assets.join("kubectl"));
        // A home of its own: discovery is cached there.
        command.arg("--kubeconfig").arg(kubeconfig).args(arguments).env("HOME", &self.folder);
        self.namespace.enter(|| output(&mut command))?
    }

    /// Waits until the server serves every kind of the CRDs that it has.
    ///
    /// # Errors
    /// With the server's words, when it refuses one of them.
    pub fn wait_for_crds(&self) -> Result<String> {
        self.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=120s"])
    }

    /// `kubectl apply` of manifests in a file or a folder.
    ///
    /// # Errors
    /// With the server's words, when it refuses one of them.
    pub fn apply(&self, path: &Path) -> Result<String> {
        self.kubectl(&["apply", "--filename", &path.display().to_string()])
    }

    /// `kubectl apply` of manifests as text.
    ///
    /// # Errors
    /// With the server's words, when it refuses one of them.
    pub fn apply_text(&self, yaml: &str) -> Result<String> {
        let path = self.write("apply.yaml", yaml)?;
        self.apply(Path::new(&path))
    }

    /// A file for kubectl, for as long as the lab lives; returns its path as an argument.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<String> {
        let path = self.folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path.display().to_string())
    }

    /// An object as JSON.
    ///
    /// # Errors
    /// When it is not there.
    pub fn get(&self, kind: &str, name: &str) -> Result<serde_json::Value> {
        let text = self.try_kubectl(&["get", kind, name, "--output", "json"])?;
        serde_json::from_str(&text)
            .with_context(|| format!("kubectl get {kind} {name} printed no JSON: {text}"))
    }

    /// All requests since the start that the administrator did not make.
    ///
    /// # Errors
    /// When the audit log cannot be read.
    pub fn audited(&self) -> Result<Vec<Audited>> {
        let path = self.folder.join("audit.log");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let requests = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        Ok(requests.map(|event| audited(&event)).collect())
    }

    /// The end of the server's log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("kube-apiserver.log")).unwrap_or_default()
    }
}

fn audited(event: &serde_json::Value) -> Audited {
    let text = |pointer: &str| event.pointer(pointer).and_then(serde_json::Value::as_str).unwrap_or_default();
    let parts = ["/objectRef/resource", "/objectRef/name", "/objectRef/subresource"].map(text);
    let target: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    Audited {
        user: text("/user/username").to_owned(),
        node: text("/user/extra/authentication.kubernetes.io~1node-name/0").to_owned(),
        verb: text("/verb").to_owned(),
        target: target.join("/"),
        code: event.pointer("/responseStatus/code").and_then(serde_json::Value::as_u64).unwrap_or_default(),
    }
}
