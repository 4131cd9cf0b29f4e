// Ranks as processes: forks one child per rank, plays the controller's part in forming the group (hands all addresses
// to everybody), and collects how the children ended.
#pragma once

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "comm/gloo_connector.h"

namespace hels::test {

/// Exit status of a child whose body threw Error(code).
inline int statusOf(ErrorCode code) { return 100 + static_cast<int>(code); }
inline constexpr int kSuccess = 0;
inline constexpr int kKilled = -1;  // ended by a signal

class ProcessGroup {
 public:
  /// What a rank does with its connector once it has everybody's addresses. Returns its exit status.
  using Body = std::function<int(int rank, GlooConnector& connector, const std::vector<std::string>& addresses)>;

  ProcessGroup(int ranks, const Body& body, const std::string& hostname = "127.0.0.1") {
    std::vector<std::array<int, 2>> toChild(static_cast<size_t>(ranks));
    std::vector<std::array<int, 2>> toParent(static_cast<size_t>(ranks));
    for (auto& ends : toChild) require(::pipe(ends.data()) == 0, ErrorCode::kInternal, "pipe");
    for (auto& ends : toParent) require(::pipe(ends.data()) == 0, ErrorCode::kInternal, "pipe");
    for (int rank = 0; rank < ranks; ++rank) {
      const auto index = static_cast<size_t>(rank);
      const pid_t child = ::fork();
      if (child == 0) ::_exit(runRank(rank, ranks, hostname, body, toChild[index][0], toParent[index][1]));
      children_.push_back(child);
    }
    std::string all;
    for (auto& ends : toParent) all += readLine(ends[0]) + "\n";
    for (auto& ends : toChild) require(::write(ends[1], all.data(), all.size()) > 0, ErrorCode::kInternal, "write");
    for (auto* pipes : {&toChild, &toParent}) {
      for (auto& ends : *pipes) {
        ::close(ends[0]);
        ::close(ends[1]);
      }
    }
  }

  ~ProcessGroup() {
    for (const pid_t child : children_) {
      if (child > 0) {
        ::kill(child, SIGKILL);
        ::waitpid(child, nullptr, 0);
      }
    }
  }
  ProcessGroup(const ProcessGroup&) = delete;
  ProcessGroup& operator=(const ProcessGroup&) = delete;

  /// Exit status of `rank`, kKilled, or -2 when it still runs after `deadline` (it is killed then).
  int wait(int rank, std::chrono::milliseconds deadline = std::chrono::seconds(60)) {
    const auto deadlineAt = std::chrono::steady_clock::now() + deadline;
    pid_t& child = children_[static_cast<size_t>(rank)];
    int status = 0;
    while (::waitpid(child, &status, WNOHANG) == 0) {
      if (std::chrono::steady_clock::now() >= deadlineAt) return -2;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    child = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : kKilled;
  }

 private:
  static int runRank(int rank, int ranks, const std::string& hostname, const Body& body, int in, int out) {
    try {
      GlooConnector connector(rank, ranks, hostname);
      const std::string line = connector.address() + "\n";
      require(::write(out, line.data(), line.size()) > 0, ErrorCode::kInternal, "write");
      std::vector<std::string> addresses;
      for (int peer = 0; peer < ranks; ++peer) addresses.push_back(readLine(in));
      return body(rank, connector, addresses);
    } catch (const Error& error) {
      std::fprintf(stderr, "rank %d: %s: %s\n", rank, errorCodeName(error.code()), error.what());
      return statusOf(error.code());
    }
  }

  static std::string readLine(int descriptor) {
    std::string line;
    char character = 0;
    while (::read(descriptor, &character, 1) == 1 && character != '\n') line += character;
    return line;
  }

  std::vector<pid_t> children_;
};

}  // namespace hels::test
