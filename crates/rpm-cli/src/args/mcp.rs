//! `mcp`: what a model may do, and how its client finds this program.

/// What a model may do.
#[derive(clap::Args, Clone, Copy, Debug, PartialEq, Eq)]
#[group(skip)]
pub struct Mcp {
    /// Also give it reload, restart, scale and rollback
    #[arg(long)]
    pub allow_actions: bool,
}

/// How it is registered with the clients of models.
pub(super) const REGISTER: &str = r#"Speaks the Model Context Protocol on standard input and output. The client of the model starts it. This is what Claude Desktop, Claude Code (.mcp.json), Cursor, Windsurf and Gemini CLI have in their configuration.

  {
    "mcpServers": {
      "rpm": { "command": "@NAME@", "args": ["mcp"] }
    }
  }

VS Code's .vscode/mcp.json has "servers" instead of "mcpServers". Where the client does not find the command, give its whole path. Another daemon than the usual one: "env": { "RPM_HOME": "DIRECTORY" }.

The model sees processes, logs, events and metrics, and no values of environment variables. With --allow-actions it may also reload, restart, scale and roll back apps. docs/MCP.md has all of it."#;
