# furrr on plan(cluster): Rscript furrr.R VARIANT WORKERS. Speaks as program.py does. The variant `one` sends
# each element by itself; otherwise furrr makes a chunk for each worker.
arguments <- commandArgs(TRUE)
one <- arguments[1] == "one"
workers <- as.integer(arguments[2])

if (!requireNamespace("furrr", quietly = TRUE)) {
  cat("missing furrr\n")
  quit()
}
suppressMessages(library(furrr))
# More workers than cores are meant, as is a large global.
options(parallelly.maxWorkers.localhost = c(Inf, Inf), future.globals.maxSize = Inf)
nodes <- parallelly::makeClusterPSOCK(rep("localhost", workers), autoStop = TRUE)
plan(cluster, workers = nodes)

increment <- function(x) x + 1
pause <- function(seconds) { Sys.sleep(seconds); seconds }
# A global; a variable of a closure would travel twice, with the closure and as its global.
data <- NULL
size_of <- function(x) length(data) + x
make <- function(size) rep_len(as.raw(sample.int(256, 2^20, TRUE) - 1), size)
long_then_short <- c(rep(1, 8), rep(0.05, 56))

map <- function(f, elements) {
  options <- if (one) furrr_options(chunk_size = 1, seed = NULL) else furrr_options(seed = NULL)
  future_map(elements, f, .options = options)
}

# Seconds until all values are here, if they are what they must be.
timed <- function(f, elements, expected, of = identity) {
  began <- Sys.time()
  value <- map(f, elements)
  seconds <- as.numeric(Sys.time() - began, units = "secs")
  stopifnot(identical(unlist(lapply(value, of)), expected))
  seconds
}

work <- list(
  rate = function(size) timed(increment, as.list(seq_len(size) + 0), seq_len(size) + 1),
  call = function(size) vapply(seq_len(size), function(i) timed(increment, list(i), i + 1), 0),
  sleeps = function(size) timed(pause, rep(0.5, size), rep(0.5, size)),
  balance = function(size) timed(pause, long_then_short, long_then_short),
  give = function(size) {
    data <<- make(size)
    timed(size_of, c(0, 1, 2, 3), size + c(0, 1, 2, 3))
  },
  take = function(size) timed(make, rep(size, 4), rep(size, 4), function(x) as.numeric(length(x)))
)

invisible(map(pause, rep(0.5, 2 * workers)))
invisible(map(increment, seq_len(workers)))
cat("ready\n")
input <- file("stdin", "r")
while (length(line <- readLines(input, 1))) {
  words <- strsplit(line, " ")[[1]]
  cat(sprintf("%.6f", work[[words[1]]](as.numeric(words[2]))), "\n")
}
parallel::stopCluster(nodes)
