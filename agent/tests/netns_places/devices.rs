//! Devices that stand on others: macvlan and bridge.

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::ways::{TwoWays, VIP4, VIP6};
use backtrail_lab::{Direction, Namespace, wait_until};

use crate::rig::{Place, WAIT, addresses, default_by, rebuilt, return_path, start_agent};

/// The device below would answer ARP for the macvlan's address, too.
const MACVLAN: &str = "sysctl -q net.ipv4.conf.all.arp_ignore=1
     ip link add mv0 link vred type macvlan mode bridge\n";

/// A node whose link of the requests belongs to `device`, which `create` makes, and with an agent that steers what comes in by it.
fn on(name: &str, device: &str, create: &str) -> Result<Place> {
    Place::listed(name, device, |net| {
        rebuilt(net, &format!("{create}{}", addresses(device, 2)), &addresses("rred", 1))
    })
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn replies_leave_by_a_macvlan() -> Result<()> {
    on("macvlan", "mv0", MACVLAN)?.assert_steered_whole()
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn replies_leave_by_a_bridge() -> Result<()> {
    let create = "ip link add br0 type bridge; ip link set vred master br0\n";
    on("bridge", "br0", create)?.assert_steered_whole()
}

fn mac(space: &Namespace, device: &str) -> Result<[u8; 6]> {
    let links = space.json(&format!("ip -j link show dev {device}"))?;
    let text = links[0]["address"].as_str().context("address")?;
    let bytes =
        text.split(':').map(|digits| u8::from_str_radix(digits, 16)).collect::<Result<Vec<_>, _>>()?;
    bytes.try_into().ok().context("six bytes")
}

/// The default route on a macvlan of the interface that requests come in by, and the other way round: both use one wire, their
/// MACs tell them apart.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_macvlan_and_the_one_below_are_told_apart() -> Result<()> {
    for (name, listed, default) in [("above", "vred", "mv0"), ("below", "mv0", "vred")] {
        let net = TwoWays::new(name)?;
        rebuilt(&net, &format!("{MACVLAN}{}", addresses(listed, 2)), &addresses("rred", 1))?;
        default_by(&net, default, "rred")?;
        let _agent = start_agent(&net.lab, &net.node, return_path(&[listed], ""), &[listed, default])?;
        let (right, wrong) = (mac(&net.node, listed)?, mac(&net.node, default)?);
        for (what, exchange) in net.each_protocol() {
            net.wires(exchange).with_context(|| format!("{name}: {what}"))?;
            let services = [VIP4.parse()?, VIP6.parse()?];
            let from = |mac| {
                net.wire.count("rred", |frame| {
                    let own = frame.direction == Direction::In && services.contains(&frame.source);
                    own && frame.source_mac == Some(mac)
                })
            };
            let (right, wrong) = (from(right), from(wrong));
            ensure!(right > 0 && wrong == 0, "{name}: {what}: {right} by {listed}, {wrong} by {default}");
        }
    }
    Ok(())
}

/// A device with the MAC of the one below: that one's program sees its frames, and cannot tell them from its own. So it is refused,
/// and what is to be listed is named: steered there, the replies of its requests go right.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn replies_of_a_passthru_macvlan_leave_by_the_device_below() -> Result<()> {
    let net = TwoWays::new("below")?;
    let create = "ip link add mv0 link vred type macvlan mode passthru\n";
    rebuilt(&net, &format!("{create}{}", addresses("mv0", 2)), &addresses("rred", 1))?;
    let agent = start_agent(&net.lab, &net.node, return_path(&["vred"], ""), &["vred", "vdef"])?;
    net.assert_steered()?;
    agent.write_manifests(&return_path(&["mv0"], ""))?;
    let told = || agent.command(&["status"]).is_ok_and(|(_, status)| status.contains("MAC address of vred"));
    wait_until(WAIT, "the device is refused", told).map(drop)
}
