//! What the API server has taken, by its own metrics.

use std::fmt;

use kube::Client;

/// Requests of Backtrail's API group that have written something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Writes {
    /// Of `NodeRoutingState`s.
    pub(super) states: u64,
    /// Of all other objects.
    pub(super) objects: u64,
}

impl Writes {
    /// So far.
    pub(super) async fn read(client: &Client) -> kube::Result<Self> {
        let request = http::Request::get("/metrics").body(Vec::new()).map_err(kube::Error::HttpError)?;
        Ok(Self::parse(&client.request_text(request).await?))
    }

    fn parse(metrics: &str) -> Self {
        let mut writes = Self::default();
        for line in metrics.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
            let label = |name: &str| {
                let rest = line.split_once(&format!("{name}=\"")).map_or("", |(_, rest)| rest);
                rest.split('"').next().unwrap_or_default()
            };
            if label("group") != "backtrail.dev"
                || !matches!(label("verb"), "APPLY" | "PATCH" | "POST" | "PUT")
            {
                continue;
            }
            let value: f64 = line.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default();
            let of = if label("resource") == "noderoutingstates" {
                &mut writes.states
            } else {
                &mut writes.objects
            };
            *of += value as u64;
        }
        writes
    }

    pub(super) fn since(&self, before: &Self) -> Self {
        Self { states: self.states - before.states, objects: self.objects - before.objects }
    }
}

impl fmt::Display for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of states, {} of objects", self.states, self.objects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_of_the_group_are_counted() {
        let metrics = r#"# TYPE apiserver_request_total counter
apiserver_request_total{code="200",group="backtrail.dev",resource="noderoutingstates",subresource="status",verb="APPLY"} 7
apiserver_request_total{code="201",group="backtrail.dev",resource="noderoutingstates",subresource="",verb="APPLY"} 2
apiserver_request_total{code="200",group="backtrail.dev",resource="returnpaths",subresource="status",verb="APPLY"} 3
apiserver_request_total{code="200",group="backtrail.dev",resource="returnpaths",subresource="",verb="WATCH"} 5
apiserver_request_total{code="200",group="",resource="nodes",subresource="",verb="POST"} 9
"#;
        assert_eq!(Writes::parse(metrics), Writes { states: 9, objects: 3 });
    }
}
