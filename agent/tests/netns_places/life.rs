//! The end of an agent.

use anyhow::{Result, ensure};
use backtrail_lab::ways::TwoWays;

use crate::rig::{return_path, start_agent};

/// All that steering may leave on a node, in words.
fn traces(net: &TwoWays) -> Result<String> {
    net.node.run(
        "tc qdisc show; ip -br link | cut -d' ' -f1
         for dev in vred vdef; do
             for side in ingress egress; do tc filter show dev $dev $side; done
         done
         bpftool net show
         ip rule; ip -6 rule; ip route show table all proto 201; ip -6 route show table all proto 201
         ip neigh show nud all | grep -E 'managed|extern_learn|proto' || true
         grep -r . /proc/sys/net/ipv4/conf/*/rp_filter /proc/sys/net/ipv4/conf/*/forwarding \\
             /proc/sys/net/ipv6/conf/*/forwarding /proc/sys/net/ipv4/ip_forward",
    )
}

/// Neither program, link, filter, qdisc, pin, device, rule, route, nor another value of a sysctl; on every kernel.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn cleanup_leaves_the_node_as_it_was() -> Result<()> {
    let net = TwoWays::new("cleanup")?;
    net.node.sysctl("net.ipv4.conf.vred.rp_filter", "1")?;
    let before = traces(&net)?;
    let spec = "  match: {virtualIPs: [198.51.100.10/32, '2001:db8:5::10/128']}\n";
    let mut agent =
        start_agent(&net.lab, &net.node, return_path(&["vred"], spec), &["vred", "vdef", "backtrail0"])?;
    net.assert_steered()?;
    let steered = traces(&net)?;
    ensure!(steered != before && steered.contains("backtrail0"), "{steered}");
    agent.stop()?;
    net.assert_steered()?;
    agent.cleanup()?;
    let after = traces(&net)?;
    ensure!(after == before, "before:\n{before}\nafter:\n{after}");
    ensure!(!agent.bpffs().exists(), "pins are left");
    Ok(())
}
