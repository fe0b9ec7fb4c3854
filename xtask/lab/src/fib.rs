//! What a kernel table says, nexthop objects followed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::namespace::Namespace;

/// Prefix → its ways out, each as `gateway dev`; a link-local gateway, which differs from run to run, is `fe80`.
pub type Fib = BTreeMap<String, BTreeSet<String>>;

/// The routes of protocol 201 in a table, of family 4 or 6.
///
/// # Errors
/// When `ip` fails, or a route names a nexthop object that is not there.
pub fn fib(namespace: &Namespace, family: u8, table: u32) -> Result<Fib> {
    // A table without any route does not exist to iproute2.
    let script = format!("ip -{family} -j route show table {table} proto 201 2>/dev/null || true");
    let Value::Array(routes) = namespace.json(&script)? else { anyhow::bail!("no list of routes") };
    let objects = namespace.json("ip -j nexthop show")?;
    let objects: BTreeMap<u64, &Value> =
        list(Some(&objects)).iter().filter_map(|object| Some((number(object, "id")?, object))).collect();
    routes.iter().map(|route| Ok((text(route, "dst").to_owned(), ways(route, &objects)?))).collect()
}

fn ways(route: &Value, objects: &BTreeMap<u64, &Value>) -> Result<BTreeSet<String>> {
    let mut hops = vec![route];
    if let Some(id) = number(route, "nhid") {
        let target = objects.get(&id).with_context(|| format!("{route} has an unknown nexthop"))?;
        let members = list(target.get("group"));
        let member = |member| objects.get(&number(member, "id")?).copied();
        hops = if members.is_empty() { vec![target] } else { members.iter().filter_map(member).collect() };
    } else if route.get("nexthops").is_some() {
        hops = list(route.get("nexthops")).iter().collect();
    }
    Ok(hops.into_iter().map(|hop| format!("{} {}", gateway(hop), text(hop, "dev"))).collect())
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn number(value: &Value, key: &str) -> Option<u64> {
    value.get(key).and_then(Value::as_u64)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// `gateway` for a nexthop of the route's family, `via.host` for another's.
fn gateway(hop: &Value) -> &str {
    let other = hop.get("via").and_then(|via| via.get("host")).and_then(Value::as_str);
    let address = hop.get("gateway").and_then(Value::as_str).or(other).unwrap_or("-");
    if address.starts_with("fe80:") { "fe80" } else { address }
}
