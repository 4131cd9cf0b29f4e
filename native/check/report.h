// What the checker finds: sections of items, each passed or failed with figures. A failure stops nothing but its item;
// a section stops at its time limit, and everything stops when the device is lost.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>

#include "check/json.h"

namespace hels::check {

using Clock = std::chrono::steady_clock;

/// One check or measurement while it runs.
class Item {
 public:
  void figure(const std::string& name, Json value) { figures_.set(name, std::move(value)); }
  /// The item fails, with the first such message, unless `condition` holds; it goes on.
  void expect(bool condition, const std::string& message) {
    if (!condition && failure_.empty()) failure_ = message;
  }
  const std::string& failure() const { return failure_; }
  const Json& figures() const { return figures_; }

 private:
  Json figures_ = Json::object();
  std::string failure_;
};

class Report {
 public:
  /// `file` may be empty; it is rewritten after every item, so that what is killed leaves what it had.
  Report(std::filesystem::path file, double secondsMax) : file_(std::move(file)), secondsMax_(secondsMax) {}

  void fact(const std::string& name, Json value) { facts_.set(name, std::move(value)); }
  /// Runs `body`, which runs items. What it throws itself is a failed item "section".
  void section(const std::string& name, const std::function<void()>& body);
  /// Runs `body` unless the section's time is up or the device is lost; catches and records what it throws. Returns
  /// whether it ran and passed.
  bool item(const std::string& name, const std::function<void(Item&)>& body);
  /// Records that something cannot be checked here, and why: neither passed nor failed.
  void skip(const std::string& name, const std::string& why);

  bool timeIsUp() const { return Clock::now() >= sectionEnd_; }
  int failures() const { return failures_; }
  Json json() const;
  void save() const;

 private:
  void add(Json item);

  std::filesystem::path file_;
  double secondsMax_;
  Json facts_ = Json::object();
  Json::Array sections_;
  std::string sectionName_;
  Json::Array items_;
  Clock::time_point sectionStart_;
  Clock::time_point sectionEnd_ = Clock::time_point::max();
  int failures_ = 0;
  int sectionFailures_ = 0;
  int skipped_ = 0;
  bool deviceLost_ = false;
  bool open_ = false;
};

}  // namespace hels::check
