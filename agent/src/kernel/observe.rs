//! What links, addresses, neighbours and rules the namespace has now.
//!
//! Start [`monitor`](super::monitor) first: what changes during a dump is then seen as a notification.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::rule::RuleMessage;

use super::client::Client;
use super::{KernelError, convert, rules};
use crate::model::{Family, Link, Neighbour, Rule};

/// All interfaces with their addresses, by index.
///
/// # Errors
/// [`KernelError`] when there is no socket or the kernel refuses the dump.
pub async fn links() -> Result<Vec<Link>, KernelError> {
    let client = Client::open()?;
    let dumped = client.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), "dump links").await?;
    let mut links: Vec<Link> = dumped
        .iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(message) => convert::link(message),
            _ => None,
        })
        .collect();
    links.sort_by_key(|link| link.ifindex);
    let dumped =
        client.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), "dump addresses").await?;
    for message in dumped {
        let RouteNetlinkMessage::NewAddress(message) = message else { continue };
        let Some((ifindex, address)) = convert::address(&message) else { continue };
        if let Ok(at) = links.binary_search_by_key(&ifindex, |link| link.ifindex) {
            links[at].addresses.push(address);
        }
    }
    for link in &mut links {
        link.addresses.sort();
    }
    Ok(links)
}

/// All IPv4 and IPv6 neighbour entries.
///
/// # Errors
/// As [`links`].
pub async fn neighbours() -> Result<Vec<Neighbour>, KernelError> {
    let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    let dumped = Client::open()?.dump(request, "dump neighbours").await?;
    let decoded = dumped.iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewNeighbour(message) => convert::neighbour(message),
        _ => None,
    });
    Ok(decoded.collect())
}

/// All policy rules, IPv4 first, each family in the order in which the kernel tries them.
///
/// # Errors
/// As [`links`].
pub async fn rules() -> Result<Vec<Rule>, KernelError> {
    let client = Client::open()?;
    let mut rules = rules_of(&client, Family::Ipv4).await?;
    rules.extend(rules_of(&client, Family::Ipv6).await?);
    Ok(rules)
}

/// One family's rules. Without that family in the kernel there are none.
async fn rules_of(client: &Client, family: Family) -> Result<Vec<Rule>, KernelError> {
    let mut request = RuleMessage::default();
    request.header.family = rules::family(family);
    let dumped = match client.dump(RouteNetlinkMessage::GetRule(request), "dump rules").await {
        Err(error) if matches!(error.errno(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => Vec::new(),
        dumped => dumped?,
    };
    let decoded = dumped.iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewRule(message) => rules::decode(message),
        _ => None,
    });
    Ok(decoded.filter(|rule| rule.family == family).collect())
}
