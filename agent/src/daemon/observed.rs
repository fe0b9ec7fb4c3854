//! The node as the kernel last showed it: links with addresses, neighbours. Pure; fed by dumps and notifications.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::kernel::monitor::Notification;
use crate::model::{Link, Neighbour, NeighbourState};
use crate::plan::Links;

/// How long links that carried traffic have been unable to: while they are, the kernel has no nexthops by them.
#[derive(Debug, Default)]
pub(super) struct Outages {
    usable: BTreeSet<u32>,
    since: BTreeMap<u32, Instant>,
}

impl Outages {
    /// Takes note of the links that are usable now; returns those that no longer are, and those that are again, with
    /// the time without.
    pub(super) fn update(&mut self, links: &Links, now: Instant) -> (Vec<u32>, Vec<(u32, Duration)>) {
        self.since.retain(|ifindex, _| links.contains_key(ifindex));
        let usable: BTreeSet<u32> =
            links.values().filter(|link| link.usable()).map(|link| link.ifindex).collect();
        let lost = self.usable.difference(&usable).filter(|ifindex| links.contains_key(ifindex));
        let lost: Vec<u32> = lost.copied().collect();
        self.since.extend(lost.iter().map(|ifindex| (*ifindex, now)));
        let mut back = Vec::new();
        for ifindex in &usable {
            let since = self.since.remove(ifindex);
            back.extend(since.map(|since| (*ifindex, now.saturating_duration_since(since))));
        }
        self.usable = usable;
        (lost, back)
    }
}

/// What a notification changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Effect {
    /// Links or addresses, as far as plans look at them.
    pub(super) links: bool,
    /// A neighbour's address, MAC or state.
    pub(super) neighbours: bool,
}

/// Links and neighbours.
#[derive(Debug, Default)]
pub(super) struct Observed {
    links: Links,
    neighbours: BTreeMap<(u32, IpAddr), Neighbour>,
    /// Links that lost their nexthops since this was last asked for, even if they are usable again now.
    flushed: BTreeSet<u32>,
}

impl Observed {
    pub(super) fn links(&self) -> &Links {
        &self.links
    }

    pub(super) fn by_name(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    pub(super) fn name(&self, ifindex: u32) -> Option<&str> {
        self.links.get(&ifindex).map(|link| link.name.as_str())
    }

    pub(super) fn neighbours(&self) -> impl Iterator<Item = &Neighbour> {
        self.neighbours.values()
    }

    pub(super) fn neighbour(&self, ifindex: u32, address: IpAddr) -> Option<&Neighbour> {
        self.neighbours.get(&(ifindex, address))
    }

    /// Links on which nexthops can exist.
    pub(super) fn usable(&self) -> BTreeSet<u32> {
        self.links.values().filter(|link| link.usable()).map(|link| link.ifindex).collect()
    }

    /// Links whose nexthops the kernel dropped meanwhile.
    pub(super) fn take_flushed(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.flushed)
    }

    /// Replaces everything by a dump.
    pub(super) fn reset(&mut self, links: Vec<Link>, neighbours: Vec<Neighbour>) {
        let old = std::mem::take(&mut self.links);
        self.links = links.into_iter().map(|link| (link.ifindex, link)).collect();
        let lost = old
            .values()
            .filter(|was| self.links.get(&was.ifindex).is_none_or(|now| loses_nexthops(was, now)));
        self.flushed.extend(lost.map(|link| link.ifindex));
        self.neighbours = neighbours.into_iter().map(|n| ((n.ifindex, n.address), n)).collect();
    }

    /// Takes note of what concerns links and neighbours.
    pub(super) fn apply(&mut self, notification: &Notification) -> Effect {
        let mut effect = Effect::default();
        match notification {
            Notification::Link(link) => effect.links = self.link(link),
            Notification::LinkGone { ifindex } => {
                effect.links = self.links.remove(ifindex).is_some();
                self.flushed.insert(*ifindex);
                self.neighbours.retain(|(on, _), _| on != ifindex);
            }
            Notification::Address { ifindex, address, added } => {
                if let Some(link) = self.links.get_mut(ifindex) {
                    let before = link.addresses.clone();
                    link.addresses.retain(|known| known.net != address.net);
                    if *added {
                        link.addresses.push(*address);
                        link.addresses.sort_unstable();
                    }
                    effect.links = link.addresses != before;
                }
            }
            Notification::Neighbour(neighbour) => {
                let old = self.neighbours.insert((neighbour.ifindex, neighbour.address), *neighbour);
                effect.neighbours = old.as_ref() != Some(neighbour);
            }
            Notification::NeighbourGone { ifindex, address } => {
                effect.neighbours = self.neighbours.remove(&(*ifindex, *address)).is_some();
            }
            _ => {}
        }
        effect
    }

    fn link(&mut self, new: &Link) -> bool {
        let mut new = new.clone();
        let Some(old) = self.links.get(&new.ifindex) else {
            self.links.insert(new.ifindex, new);
            return true;
        };
        new.addresses.clone_from(&old.addresses);
        if loses_nexthops(old, &new) {
            self.flushed.insert(new.ifindex);
        }
        let changed = *old != new;
        self.links.insert(new.ifindex, new);
        changed
    }
}

/// Whether the kernel dropped the nexthop objects of the link on the way (net/ipv4/nexthop.c, `nh_netdev_event`; a
/// change of the VRF takes the device through down and up).
fn loses_nexthops(was: &Link, now: &Link) -> bool {
    (was.usable() && !now.usable()) || was.master != now.master
}

/// Whether an entry answers.
pub(super) fn answers(neighbour: Option<&Neighbour>) -> bool {
    neighbour.is_some_and(|n| n.state == NeighbourState::Valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_lasts_from_the_loss_to_the_return_and_not_beyond_the_link() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let link = |ifindex, carrier| (ifindex, Link { carrier, ..Link::ethernet(ifindex, "up") });
        let links = |one, two| Links::from([link(1, one), link(2, two)]);
        let mut outages = Outages::default();
        assert_eq!(outages.update(&links(true, false), start), (vec![], vec![]), "2 never worked");
        assert_eq!(outages.update(&links(false, false), start), (vec![1], vec![]));
        assert_eq!(outages.update(&links(false, true), start + second), (vec![], vec![]));
        assert_eq!(outages.update(&links(true, true), start + 3 * second), (vec![], vec![(1, 3 * second)]));
        assert_eq!(outages.update(&links(false, true), start), (vec![1], vec![]));
        assert_eq!(outages.update(&Links::from([link(2, true)]), start), (vec![], vec![]), "it is gone");
        assert_eq!(outages.update(&links(true, true), start), (vec![], vec![]), "and another one is new");
    }
}
