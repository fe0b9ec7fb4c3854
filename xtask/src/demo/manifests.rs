//! The manifests of the four problems. `table` is where zebra's routes are: its `-R` table, or main (254).

/// Routes that BGP learns, into the table that forwards: main, or the gateway's table where main is zebra's.
pub(crate) fn dynamic_routing(table: u32, into: &str) -> String {
    format!(
        "apiVersion: backtrail.dev/v1alpha1
kind: RouteImport
metadata: {{name: other-clusters}}
spec:
  from: {{table: {table}, protocols: [BGP]}}
  into: {{table: {into}}}
  allowed: {{mode: Filtered, prefixes: [{{prefix: 172.16.0.0/16, le: 32}}]}}
"
    )
}

/// Traffic for a CIDR leaves by one VLAN or not at all.
pub(crate) fn segregation(table: u32) -> String {
    format!(
        "apiVersion: backtrail.dev/v1alpha1
kind: VRFAttachment
metadata: {{name: billing}}
spec:
  vrf: {{name: billing, table: 10020, mode: TableOnly}}
  interfaces: [{{name: vlan120, type: Existing}}]
  isolation: Strict
---
apiVersion: backtrail.dev/v1alpha1
kind: RouteImport
metadata: {{name: billing-routes}}
spec:
  from: {{table: {table}, interfaces: [vlan120], protocols: [BGP]}}
  into: {{vrf: {{name: billing, table: 10020}}}}
  allowed: {{mode: Filtered, prefixes: [{{prefix: 10.20.0.0/16, le: 24}}]}}
---
apiVersion: backtrail.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: to-billing}}
spec:
  rules:
  - name: billing
    match: {{destinations: [\"10.20.0.0/16\"]}}
    action: {{vrf: {{name: billing, table: 10020}}, ifUnavailable: Drop}}
"
    )
}

/// Two gateways, active-active.
pub(crate) fn gateways(table: u32) -> String {
    format!(
        "apiVersion: backtrail.dev/v1alpha1
kind: VRFAttachment
metadata: {{name: dcgw}}
spec:
  vrf: {{name: dcgw, table: 10030, mode: TableOnly}}
  interfaces: [{{name: vlan131, type: Existing}}, {{name: vlan132, type: Existing}}]
---
apiVersion: backtrail.dev/v1alpha1
kind: RouteImport
metadata: {{name: dcgw-ecmp}}
spec:
  from: {{table: {table}, interfaces: [vlan131, vlan132], protocols: [BGP]}}
  into: {{vrf: {{name: dcgw, table: 10030}}}}
  allowed: {{mode: All}}
---
apiVersion: backtrail.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: by-gateways}}
spec:
  rules:
  - name: outside
    match: {{destinations: [\"198.51.100.0/24\"]}}
    action: {{vrf: {{name: dcgw, table: 10030}}, ifUnavailable: Drop}}
"
    )
}

/// Replies leave by the interface that the request came in on.
pub(crate) fn return_path() -> String {
    "apiVersion: backtrail.dev/v1alpha1
kind: ReturnPath
metadata: {name: lb-vips}
spec:
  interfaces:
  - {name: vlan100}
  - {name: vlan120}
  mode: TCRedirect
"
    .to_owned()
}
