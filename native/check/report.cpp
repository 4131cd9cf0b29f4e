#include "check/report.h"

#include <cstdio>
#include <fstream>

#include "base/error.h"

namespace hels::check {
namespace {

double secondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace

void Report::section(const std::string& name, const std::function<void()>& body) {
  sectionName_ = name;
  items_.clear();
  sectionFailures_ = 0;
  skipped_ = 0;
  open_ = true;
  sectionStart_ = Clock::now();
  sectionEnd_ = sectionStart_ + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(secondsMax_));
  try {
    body();
  } catch (const std::exception& error) {
    ++sectionFailures_;
    add(Json::object().set("name", "section").set("passed", false).set("error", error.what()));
  }
  std::printf("%s: %s, %.1f s%s\n", name.c_str(), sectionFailures_ == 0 ? "passed" : "FAILED",
              secondsSince(sectionStart_), skipped_ == 0 ? "" : (", " + std::to_string(skipped_) + " skipped").c_str());
  Json closed = json().at("sections").items().back();
  open_ = false;
  sections_.push_back(std::move(closed));
  failures_ += sectionFailures_;
  save();
}

bool Report::item(const std::string& name, const std::function<void(Item&)>& body) {
  if (deviceLost_ || timeIsUp()) {
    skip(name, deviceLost_ ? "the device was lost before" : "the section's time was up");
    return false;
  }
  Item item;
  const Clock::time_point start = Clock::now();
  try {
    body(item);
  } catch (const Error& error) {
    item.expect(false, std::string(errorCodeName(error.code())) + ": " + error.what());
    deviceLost_ = error.code() == ErrorCode::kDeviceLost;
  } catch (const std::exception& error) {
    item.expect(false, error.what());
  }
  const bool passed = item.failure().empty();
  Json json = Json::object().set("name", name).set("passed", passed);
  if (!passed) json.set("error", item.failure());
  for (const auto& [figure, value] : item.figures().members()) json.set(figure, value);
  json.set("wallSeconds", secondsSince(start));
  if (!passed) ++sectionFailures_;
  add(std::move(json));
  return passed;
}

void Report::skip(const std::string& name, const std::string& why) {
  ++skipped_;
  add(Json::object().set("name", name).set("passed", Json()).set("skipped", why));
}

void Report::add(Json item) {
  std::printf("  %s\n", item.text().c_str());
  std::fflush(stdout);
  items_.push_back(std::move(item));
  save();
}

Json Report::json() const {
  Json::Array sections = sections_;
  if (open_) {
    Json section = Json::object();
    section.set("name", sectionName_).set("passed", sectionFailures_ == 0).set("skipped", skipped_);
    section.set("seconds", secondsSince(sectionStart_)).set("items", items_);
    sections.push_back(std::move(section));
  }
  Json all = facts_;
  return all.set("passed", failures_ + (open_ ? sectionFailures_ : 0) == 0).set("sections", std::move(sections));
}

void Report::save() const {
  if (file_.empty()) return;
  const std::filesystem::path next = file_.string() + ".new";
  std::ofstream(next, std::ios::binary) << json().text(4) << "\n";
  std::error_code error;
  std::filesystem::rename(next, file_, error);
  if (error) std::fprintf(stderr, "%s cannot be written: %s\n", file_.c_str(), error.message().c_str());
}

}  // namespace hels::check
