# farrow with R on both ends: the client is R too, and elements and values travel as R serializes them. Answers each
# line of input as program.py does.
api <- paste0(Sys.getenv("FARROW_URL"), "/v1")
connection <- curl::new_handle()

# The status and the body of an answer. All requests share a connection.
ask <- function(path, method = "GET", body = NULL, type = "application/octet-stream") {
  curl::handle_reset(connection)
  curl::handle_setopt(connection, customrequest = method)
  if (!is.null(body)) curl::handle_setopt(connection, postfieldsize = length(body), postfields = body)
  curl::handle_setheaders(connection, Authorization = paste("Bearer", Sys.getenv("FARROW_TOKEN")),
    `Content-Type` = type, Expect = "")
  answer <- curl::curl_fetch_memory(paste0(api, path), connection)
  if (answer$status_code >= 400) stop(rawToChar(answer$content))
  answer
}

# A frame is a length, a letter and what was serialized. R takes microseconds for a call of serialize() and for
# a turn of a loop: so objects that are alike are cut out of their list's serialization, and joined to be read.
letter <- charToRaw("v")

to_frames <- function(elements) {
  head <- head_of(serialize(NULL, NULL))
  list <- serialize(elements, NULL)
  # What is to be kept is said as a range, which R makes no vector of.
  objects <- alike(list[(length(head) + 9L):length(list)], length(elements), "big")
  if (is.null(objects)) return(unlist(lapply(elements, function(element) frame(serialize(element, NULL)))))
  front <- frame(head, length(head) + nrow(objects))
  frames <- matrix(raw(1), length(front) + nrow(objects), ncol(objects))
  frames[seq_along(front), ] <- front
  frames[(length(front) + 1L):nrow(frames), ] <- objects
  as.vector(frames)
}

frame <- function(payload, size = length(payload)) c(writeBin(size, raw(), endian = "little"), letter, payload)

from_frames <- function(bytes, count) {
  # R's longest head; where the bytes end before that, there are zeros.
  head <- head_of(bytes[5 + 1:81])
  front <- seq_len(5L + length(head))
  if (length(bytes) %% count != 0) return(one_by_one(bytes, count))
  frames <- bytes
  dim(frames) <- c(length(bytes) / count, count)
  objects <- alike(frames[-front, ], count, endian_of(head))
  if (is.null(objects) || !all_are(frames[front, , drop = FALSE], frame(head, nrow(frames) - 5L))) return(one_by_one(bytes, count))
  unserialize(c(head, writeBin(c(19L, count), raw(), endian = endian_of(head)), objects))
}

one_by_one <- function(bytes, count) {
  connection <- rawConnection(bytes)
  on.exit(close(connection))
  lapply(seq_len(count), function(i) {
    stopifnot(readBin(connection, "raw", 5)[5] == letter)
    unserialize(connection)
  })
}

# What stands before the object: the format, three versions, and how strings are encoded.
head_of <- function(bytes) bytes[seq_len(18L + readBin(bytes[15:18], "integer", endian = endian_of(bytes)))]

endian_of <- function(bytes) if (bytes[1] == charToRaw("X")) "big" else "little"

# Whether all columns of a matrix are `bytes`. A tenth of what it takes to compare them one by one.
all_are <- function(columns, bytes) identical(columns, matrix(bytes, length(bytes), ncol(columns)))

# A column for each of `count` objects, if all are bare vectors of numbers, of one type and length. If the first
# is one and fills its column, then the second begins with its own, and so on.
alike <- function(bytes, count, endian) {
  if (length(bytes) %% count != 0) return()
  objects <- matrix(bytes, ncol = count)
  start <- readBin(objects[1:8], "integer", 2, endian = endian)
  width <- c(`10` = 4, `13` = 4, `14` = 8)[as.character(start[1])]
  if (is.na(width) || nrow(objects) != 8 + width * start[2] || !all_are(objects[1:8, , drop = FALSE], objects[1:8])) return()
  objects
}

# A job's value: of the answer to its submission, or of those that follow.
map <- function(source, elements) {
  frames <- to_frames(elements)
  digest <- paste0("sha256:", openssl::sha256(frames))
  ask(paste0("/blobs/", digest), "PUT", frames)
  job <- sprintf('{"runtime": "r", "function": "%s", "options": {"encoding": "rds"}, "elements": {"blob": "%s"}}',
    source, digest)
  answer <- ask("/jobs?wait=30", "POST", charToRaw(job), "application/json")
  while (answer$status_code == 202) {
    id <- sub('.*"id": *"([^"]*)".*', "\\1", rawToChar(answer$content))
    answer <- ask(paste0("/jobs/", id, "/value?wait=30"))
  }
  from_frames(answer$content, length(elements))
}

input <- file("stdin", "r")
while (length(line <- readLines(input, 1))) {
  size <- as.numeric(strsplit(line, " ")[[1]][2])
  elements <- as.list(seq_len(size) + 0)
  began <- Sys.time()
  value <- map("function(x) x + 1", elements)
  seconds <- as.numeric(Sys.time() - began, units = "secs")
  stopifnot(identical(unlist(value), unlist(elements) + 1))
  cat(sprintf("%.6f\n", seconds))
}
