//! `kubectl backtrail`, with a kubectl that writes down how it was called.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Command, Output};

use tempfile::TempDir;

/// What the API server would say of node w1.
const STATE: &str = r#"{"apiVersion": "backtrail.dev/v1alpha1", "kind": "NodeRoutingState", "metadata": {"name": "w1"}, "spec": {},
 "status": {"agent": {"node": "w1", "version": "0.1.0", "kernel": "6.1"},
            "conditions": [{"type": "Ready", "status": "False", "reason": "Partial", "message": "not as asked for: Programmed",
                            "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}"#;

/// A folder with the plugin under the name that kubectl looks for, and a kubectl.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        symlink(env!("CARGO_BIN_EXE_backtrail"), folder.path().join("kubectl-backtrail")).expect("a link");
        let log = folder.path().join("log");
        let script = format!(
            "#!/bin/sh\necho \"$@\" >>{log}\ncase \"$*\" in\n\
             *'nodeName=w1'*) echo pod/backtrail-x7k2p;;\n\
             *'get noderoutingstates w1'*) cat <<'END'\n{STATE}\nEND\n;;\n\
             *'get noderoutingstates w2'*) echo 'Error from server (NotFound)' >&2; exit 1;;\n\
             *exec*) exit 2;;\nesac\n",
            log = log.display()
        );
        let kubectl = folder.path().join("kubectl");
        fs::write(&kubectl, script).expect("a script");
        fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).expect("a mode");
        Self(folder)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let path = format!("{}:/usr/bin:/bin", self.0.path().display());
        let program = self.0.path().join("kubectl-backtrail");
        Command::new(program).args(arguments).env("PATH", path).output().expect("the plugin starts")
    }

    /// How kubectl was called.
    fn calls(&self) -> Vec<String> {
        let log = fs::read_to_string(self.0.path().join("log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_nodes_status_comes_from_the_api() {
    let folder = Folder::new();
    let out = folder.run(&["status", "w1", "--context", "lab"]);
    assert_eq!(out.status.code(), Some(2), "not ready: {}", text(&out.stderr));
    assert!(text(&out.stdout).contains("NOT HEALTHY"), "{}", text(&out.stdout));
    assert_eq!(folder.calls(), ["--context lab get noderoutingstates w1 --output json"]);
    let json = folder.run(&["status", "w1", "-o", "json"]);
    let status: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(status["agent"]["node"], "w1");
    let missing = folder.run(&["status", "w2"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("NotFound"), "{}", text(&missing.stderr));
}

#[test]
fn other_commands_run_in_the_nodes_pod() {
    let folder = Folder::new();
    let out = folder.run(&["routes", "w1", "-o", "json", "--vrf", "red"]);
    assert_eq!(out.status.code(), Some(2), "the exit status is the command's: {}", text(&out.stderr));
    let out = folder.run(&["--dry-run", "explain", "w1", "tcp 192.0.2.1:1024 198.51.100.1:80"]);
    assert_eq!(
        text(&out.stdout),
        "kubectl exec --namespace backtrail-system pod/backtrail-x7k2p --container agent -- /usr/bin/backtrail explain \
         'tcp 192.0.2.1:1024 198.51.100.1:80'\n"
    );
    let find = "get pods --namespace backtrail-system --selector app.kubernetes.io/name=backtrail \
                --field-selector spec.nodeName=w1 --output name";
    let exec = "exec --namespace backtrail-system pod/backtrail-x7k2p --container agent -- /usr/bin/backtrail routes";
    assert_eq!(folder.calls(), [find, &format!("{exec} --output json --vrf red"), find]);
    let nowhere = folder.run(&["flows", "w9"]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(text(&nowhere.stderr).contains("no agent runs on node w9"), "{}", text(&nowhere.stderr));
}

#[test]
fn without_a_node_there_is_a_table_of_all() {
    let folder = Folder::new();
    assert!(folder.run(&["status"]).status.success());
    assert_eq!(folder.calls(), ["get noderoutingstates"]);
    assert_eq!(folder.run(&["route"]).status.code(), Some(1), "usage");
}
