// Threads that share the tasks of one kernel. TensorFlow's C API does not offer TensorFlow's own
// threads.
#pragma once

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace kbn {

class Pool {
 public:
  // The pool of the process. It is never deleted, because its threads outlive static destructors.
  static Pool& shared() {
    static Pool* pool = new Pool;
    return *pool;
  }

  // Sets the number of threads that take part, including the caller's.
  void set_threads(int threads) { threads_ = threads < 1 ? 1 : threads; }

  // Calls function(task) for every task in [0, tasks), in any order, and returns when all are done.
  template <typename Function>
  void run(int64_t tasks, Function&& function) {
    std::unique_lock<std::mutex> only(in_use_, std::try_to_lock);
    // If another kernel uses the threads, or if this process is a fork, which has none of them, run
    // all tasks here. This is slower, but the results are the same.
    if (tasks < 2 || threads_ < 2 || !only.owns_lock() || getpid() != process_) {
      for (int64_t task = 0; task < tasks; ++task) function(task);
      return;
    }
    Job job{[](void* f, int64_t task) { (*static_cast<Function*>(f))(task); }, &function, tasks};
    start(&job);
    job.work();
    finish(&job);
  }

 private:
  struct Job {
    void (*call)(void*, int64_t);
    void* function;
    int64_t tasks;
    std::atomic<int64_t> next{0};

    Job(void (*call)(void*, int64_t), void* function, int64_t tasks)
        : call(call), function(function), tasks(tasks) {}

    void work() {
      for (int64_t task; (task = next.fetch_add(1)) < tasks;) call(function, task);
    }
  };

  void start(Job* job) {
    try {
      while (static_cast<int>(workers_.size()) < threads_ - 1) {
        workers_.emplace_back([this] { serve(); });
      }
    } catch (const std::system_error&) {
      threads_ = static_cast<int>(workers_.size()) + 1;  // the system has no more threads
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = job;
      generation_.fetch_add(1);
    }
    wake_.notify_all();
  }

  // After this, no worker may use the job, because it is on the caller's stack.
  void finish(Job*) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = nullptr;
    }
    while (busy_.load(std::memory_order_acquire) != 0) pause();
  }

  void serve() {
    uint64_t seen = 0;
    for (;;) {
      // The next loop of a kernel starts within microseconds, so wait a little before sleeping.
      for (int i = 0; i < kSpins && generation_.load() == seen; ++i) pause();
      Job* job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load() != seen; });
        seen = generation_.load();
        job = job_;
        if (job != nullptr) busy_.fetch_add(1);
      }
      if (job == nullptr) continue;
      job->work();
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
  }

  static constexpr int kSpins = 1000;  // about 20 microseconds

  const pid_t process_ = getpid();
  std::atomic<int> threads_{1};
  std::vector<std::thread> workers_;
  std::mutex in_use_, mutex_;
  std::condition_variable wake_;
  Job* job_ = nullptr;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> busy_{0};
};

}  // namespace kbn
