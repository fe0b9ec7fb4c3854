//! `backtrail cleanup` in a namespace where things of ours and of others lie side by side.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use backtrail::control::Endpoint;
use backtrail_lab::{Lab, Namespace};

/// What an agent leaves behind, and beside it what must stay.
const LEFTOVERS: &str = "
ip link add v0 type veth peer name v1; ip addr add 192.0.2.1/24 dev v0; ip link set v0 up; ip link set v1 up
ip nexthop add id 4200000000 via 192.0.2.2 dev v0 proto 201
ip nexthop add id 4200000001 via 192.0.2.3 dev v0 proto 201
ip nexthop add id 4200000002 group 4200000000/4200000001 proto 201
ip nexthop add id 7 via 192.0.2.9 dev v0 proto bgp
ip nexthop add id 8 via 192.0.2.9 dev v0 proto 201
ip route add 198.51.100.0/24 nhid 4200000002 table 10001 proto 201 metric 20
ip route add unreachable default table 10001 proto 201 metric 4294967295
ip route add 203.0.113.0/24 via 192.0.2.2 proto 201 metric 20
ip -6 route add unreachable default table 10001 proto 201 metric 4294967295
ip route add 198.51.100.0/24 via 192.0.2.9 table 10002 proto bgp
ip route add 203.0.113.0/24 via 192.0.2.9 proto static metric 30
ip rule add prio 1105 to 198.51.100.0/24 lookup 10001 proto 201
ip -6 rule add prio 1105 iif v0 lookup 10001 proto 201
ip rule add prio 1106 to 198.51.100.0/24 lookup 10002 proto static
ip rule add prio 900 to 198.51.100.0/24 lookup 10002 proto 201
ip link add sink type ifb; ip link set sink alias backtrail
ip link add other type ifb; ip link set other alias mine
";

fn kernel(node: &Namespace) -> String {
    node.run("ip rule; ip -6 rule; ip route show table all proto 201; ip route show table all proto bgp; ip route show proto static; ip nexthop; ip -br link | cut -d' ' -f1")
        .expect("iproute2 prints")
}

fn cleanup(node: &Namespace, dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backtrail"));
    command.arg("cleanup").args(arguments);
    for folder in ["run", "state", "bpffs"] {
        let option = if folder == "bpffs" { "--bpffs".to_owned() } else { format!("--{folder}-dir") };
        command.arg(option).arg(dir.join(folder));
    }
    node.enter(|| command.output()).expect("the namespace").expect("the program starts")
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn all_that_is_ours_goes_and_all_else_stays() {
    let lab = Lab::new("cleanup").unwrap();
    let node = lab.namespace("node").unwrap();
    node.run(LEFTOVERS).unwrap();
    let dir: PathBuf = lab.dir().join("agent");
    let state = dir.join("state");
    std::fs::create_dir_all(&state).unwrap();
    node.sysctl("net.ipv4.conf.v0.rp_filter", "0").unwrap();
    node.enter(|| {
        backtrail::kernel::sysctl::Sysctls::open(&state).unwrap().set("net/ipv4/conf/v0/rp_filter", "2")
    })
    .unwrap()
    .unwrap();

    let output = cleanup(&node, &dir, &[]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "removed 0 BPF pins, 2 rules, 4 routes, 3 nexthop objects, 1 devices, 0 addresses; released 0 interfaces, 0 \
         neighbours; restored 1 sysctls\n"
    );
    let after = kernel(&node);
    for gone in ["1105:", "4200000000", "4200000002", "unreachable", "sink", "metric 20"] {
        assert!(!after.contains(gone), "{gone} is still in\n{after}");
    }
    for stays in ["1106:", "900:", "id 7 ", "id 8 ", "table 10002", "203.0.113.0/24 via 192.0.2.9", "other"] {
        assert!(after.contains(stays), "{stays} is gone from\n{after}");
    }
    assert_eq!(node.read_sysctl("net.ipv4.conf.v0.rp_filter").unwrap(), "0");
    assert!(!state.exists() && !dir.join("run").exists(), "empty folders of ours stay behind");

    let again = cleanup(&node, &dir, &[]);
    assert!(again.status.success(), "{again:?}");
    assert!(
        String::from_utf8_lossy(&again.stdout)
            .starts_with("removed 0 BPF pins, 0 rules, 0 routes, 0 nexthop objects")
    );
    assert_eq!(kernel(&node), after);
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_running_agent_is_not_pulled_the_rug_from_under() {
    let lab = Lab::new("cleanup-running").unwrap();
    let node = lab.namespace("node").unwrap();
    node.run("ip rule add prio 1105 lookup 10001 proto 201").unwrap();
    let dir = lab.dir().join("agent");
    let agent = Endpoint::claim(&dir.join("run")).unwrap();

    let refused = cleanup(&node, &dir, &[]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("stop it first, or give --force"), "{said}");
    assert!(node.run("ip rule").unwrap().contains("1105:"));

    let forced = cleanup(&node, &dir, &["--force"]);
    assert!(forced.status.success(), "{forced:?}");
    assert!(!node.run("ip rule").unwrap().contains("1105:"));
    drop(agent);
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_renamed_interface_gets_its_sysctls_back_and_its_old_name_is_another_ones() {
    let lab = Lab::new("cleanup-renamed").unwrap();
    let node = lab.namespace("node").unwrap();
    node.run("ip link add wan type veth peer name peer; ip link add new type veth peer name peer2").unwrap();
    let dir = lab.dir().join("agent");
    let state = dir.join("state");
    std::fs::create_dir_all(&state).unwrap();
    let keys = ["net/ipv4/conf/wan/rp_filter", "net/ipv6/conf/wan/keep_addr_on_down"];
    let values = || {
        let files = ["wan", "lan"].map(|name| {
            format!(
                "/proc/sys/net/ipv4/conf/{name}/rp_filter /proc/sys/net/ipv6/conf/{name}/keep_addr_on_down"
            )
        });
        node.run(&format!("cat {}", files.join(" "))).unwrap()
    };
    let set = || {
        node.enter(|| {
            let mut sysctls = backtrail::kernel::sysctl::Sysctls::open(&state).unwrap();
            keys.iter().for_each(|key| sysctls.set(key, "1").unwrap());
        })
        .unwrap();
    };
    node.run(
        "echo 2 > /proc/sys/net/ipv4/conf/wan/rp_filter; echo 0 > /proc/sys/net/ipv4/conf/new/rp_filter",
    )
    .unwrap();
    set();
    node.run("ip link set wan name lan; ip link set new name wan").unwrap();
    assert_eq!(values(), "0\n0\n1\n1\n", "values travel with their interfaces");
    set();
    let output = cleanup(&node, &dir, &[]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("restored 4 sysctls"), "{output:?}");
    assert_eq!(values(), "0\n0\n2\n0\n");
}
