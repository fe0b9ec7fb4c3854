//! What the demo prints.

use std::time::Instant;

use anyhow::Result;
use backtrail_lab::Namespace;

/// Lines of a command's output that are shown.
const SHOWN: usize = 14;

/// Standard output with the time since the start.
#[derive(Debug)]
pub(crate) struct Screen {
    start: Instant,
}

impl Screen {
    pub(crate) fn new(start: Instant) -> Self {
        Self { start }
    }

    /// A headline.
    pub(crate) fn title(&self, text: &str) {
        println!("\n=== {text} ===");
    }

    /// A step.
    pub(crate) fn say(&self, text: &str) {
        println!("[{:5.1} s] {text}", self.start.elapsed().as_secs_f32());
    }

    /// Manifests, as the agent gets them.
    pub(crate) fn manifests(&self, yaml: &str) {
        self.say("with Backtrail and these manifests:");
        for line in yaml.trim_end().lines() {
            println!("          {line}");
        }
    }

    /// A command in a namespace and what it prints, its errors too, shortened.
    pub(crate) fn command(&self, namespace: &Namespace, command: &str) -> Result<String> {
        let text = namespace.run(&format!("{{ {command}; }} 2>&1 || true"))?;
        self.prompt(namespace, command);
        self.output(&text);
        Ok(text)
    }

    /// A command as it is typed in a namespace.
    pub(crate) fn prompt(&self, namespace: &Namespace, command: &str) {
        let name = namespace.name();
        println!("          {}# {command}", name.rsplit('-').next().unwrap_or(name));
    }

    /// What something has printed, shortened.
    pub(crate) fn output(&self, text: &str) {
        let lines: Vec<&str> = text.lines().collect();
        for line in lines.iter().take(SHOWN) {
            println!("            {line}");
        }
        if lines.len() > SHOWN {
            println!("            … {} more lines", lines.len() - SHOWN);
        }
        if lines.is_empty() {
            println!("            (nothing)");
        }
    }
}
