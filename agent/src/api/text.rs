//! Strings and numbers of the API that are parsed once, at the edge, and carry their rule into the CRD.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Declares a newtype that is a string in manifests, with its schema: longest length and CEL rules.
macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident($inner:ty), $max:literal, $description:literal, [$(($rule:literal, $message:literal)),+ $(,)?]) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                <$inner>::from_str(&text).map(Self).map_err(|e| de::Error::custom(format!("{text}: {e}")))
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "description": $description,
                    "type": "string",
                    "minLength": 1,
                    "maxLength": $max,
                    "x-kubernetes-validations": [$({"rule": $rule, "message": $message}),+],
                })
            }
        }
    };
}

text_type!(
    /// A prefix without host bits.
    Cidr(IpNet),
    43,
    "A prefix such as 10.20.0.0/16 or 2001:db8::/32. Host bits must be zero.",
    [
        ("isCIDR(self)", "must be a prefix such as 10.20.0.0/16 or 2001:db8::/32"),
        ("!isCIDR(self) || cidr(self) == cidr(self).masked()", "must have no host bits: write 10.20.0.0/16, not 10.20.1.2/16"),
    ]
);

text_type!(
    /// An address with the length of its subnet, as `ip address add` takes it.
    InterfaceAddress(IpNet),
    43,
    "An address with its prefix length, such as 192.0.2.10/24.",
    [("isCIDR(self)", "must be an address with prefix length, such as 192.0.2.10/24")]
);

text_type!(
    /// An IPv4 or IPv6 address.
    Address(IpAddr),
    39,
    "An IPv4 or IPv6 address.",
    [("isIP(self)", "must be an IPv4 or IPv6 address")]
);

text_type!(
    /// An IPv4 address.
    AddressV4(Ipv4Addr),
    15,
    "An IPv4 address.",
    [("isIP(self) && ip(self).family() == 4", "must be an IPv4 address")]
);

text_type!(
    /// An IPv6 address.
    AddressV6(Ipv6Addr),
    39,
    "An IPv6 address.",
    [("isIP(self) && ip(self).family() == 6", "must be an IPv6 address")]
);

text_type!(
    /// The exact name of an interface (net/core/dev.c: `dev_valid_name`).
    InterfaceName(String),
    15,
    "Name of an interface, exact.",
    [(
        "self.matches('^[^/:*?\\\\s]{1,15}$') && self != '.' && self != '..'",
        "must be an interface name: 1 to 15 characters without space, slash, colon or wildcard"
    )]
);

text_type!(
    /// The name of an interface, or a glob over names: `bond0.*`.
    InterfacePattern(String),
    15,
    "Name of an interface, or a glob such as bond0.*.",
    [(
        "self.matches('^[^/:\\\\s]{1,15}$') && self != '.' && self != '..'",
        "must be an interface name or a glob such as bond0.*: 1 to 15 characters without space, slash or colon"
    )]
);

impl InterfacePattern {
    /// Whether it stands for more than one name.
    #[must_use]
    pub fn is_glob(&self) -> bool {
        self.0.contains(['*', '?', '[', '{'])
    }
}

text_type!(
    /// A socket address: `127.0.0.1:2620`, `[::1]:2620`.
    ListenAddress(std::net::SocketAddr),
    47,
    "Address and TCP port, such as 127.0.0.1:2620 or [::1]:2620.",
    [(
        "self.matches('^([0-9.]+|\\\\[[0-9a-fA-F:.]+\\\\]):[0-9]{1,5}$') && isIP(self.replace('[', '').replace(']', '').substring(0, self.replace('[', '').replace(']', '').lastIndexOf(':'))) && int(self.substring(self.lastIndexOf(':') + 1)) <= 65535",
        "must be an address and a port, such as 127.0.0.1:2620 or [::1]:2620"
    )]
);

/// A span of time as Kubernetes writes it: `90s`, `2m`, `1h30m`, `500ms`; `0s` is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

impl Span {
    /// Whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.subsec_millis() == 0 {
            write!(f, "{}s", self.0.as_secs())
        } else {
            write!(f, "{}ms", self.0.as_millis())
        }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let duration = kube::core::Duration::deserialize(deserializer)?;
        if duration.is_negative() {
            return Err(de::Error::custom("a duration cannot be negative"));
        }
        Ok(Self(duration.into()))
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A duration such as 90s, 2m or 1h30m.",
            "type": "string",
            "minLength": 2,
            "maxLength": 24,
            "x-kubernetes-validations": [{
                "rule": "self.matches('^([0-9]{1,9}(ms|s|m|h))+$')",
                "message": "must be a duration such as 90s, 2m or 1h30m",
            }],
        })
    }
}

/// A kernel table outside a VRF: `Main`, or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableRef {
    /// The main table, 254.
    Main,
    /// Any other table by number; 0 and 253 to 255 are refused.
    Number(u32),
}

impl TableRef {
    /// The table's number.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Main => crate::model::TABLE_MAIN,
            Self::Number(n) => n,
        }
    }
}

impl Serialize for TableRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Main => serializer.serialize_str("Main"),
            Self::Number(n) => serializer.serialize_u32(*n),
        }
    }
}

impl<'de> Deserialize<'de> for TableRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Number(u32),
            Text(String),
        }
        match Raw::deserialize(deserializer)? {
            Raw::Number(n) => Ok(Self::Number(n)),
            Raw::Text(text) if text == "Main" => Ok(Self::Main),
            Raw::Text(text) => text
                .parse()
                .map(Self::Number)
                .map_err(|_| de::Error::custom(format!("{text}: must be Main or a table number"))),
        }
    }
}

impl JsonSchema for TableRef {
    fn schema_name() -> Cow<'static, str> {
        "TableRef".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Main, or the number of a table.",
            "x-kubernetes-int-or-string": true,
        })
    }
}
