/** Seconds per phase of a step: one phase runs at a time. */

export interface Stopwatch {
  /** Ends the phase that runs and begins this one; a phase may run several times, its seconds add up. */
  start(phase: string): void;
  /** Ends the phase that runs. */
  stop(): void;
  /** `{"time/rollout": 1.2, …, "step_time": 3.4}` in seconds since the last lap, and begins a new one. */
  lap(): Record<string, number>;
}

/** @param now a monotonic clock in milliseconds */
export function createStopwatch(now: () => number = () => performance.now()): Stopwatch {
  let seconds = new Map<string, number>();
  let running: { phase: string; since: number } | undefined;
  let lapSince = now();
  const stop = () => {
    if (running === undefined) return;
    seconds.set(running.phase, (seconds.get(running.phase) ?? 0) + (now() - running.since) / 1000);
    running = undefined;
  };
  return {
    start(phase) {
      stop();
      running = { phase, since: now() };
    },
    stop,
    lap() {
      stop();
      const times: Record<string, number> = {};
      for (const [phase, time] of seconds) times[`time/${phase}`] = time;
      times.step_time = (now() - lapSince) / 1000;
      seconds = new Map();
      lapSince = now();
      return times;
    },
  };
}
