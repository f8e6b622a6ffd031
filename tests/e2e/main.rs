//! The whole thing as its users meet it: a server, agents and workers as processes.

mod agent_protocol;
mod bad_input;
mod bad_jobs;
mod bad_start;
mod cli;
mod contract;
mod docs;
mod doubles;
mod ec2;
mod future;
mod kills;
mod large;
mod models;
mod nasty;
mod openapi;
mod options;
mod prepare;
mod retries;
mod running;
mod seeds;
mod sharing;
mod submitting;
mod topology;
mod twin;
mod variants;
