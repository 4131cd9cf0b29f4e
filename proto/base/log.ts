import winston from 'winston';

export type Logger = winston.Logger;

export const logLevels = ['error', 'warn', 'info', 'debug'] as const;
export type LogLevel = (typeof logLevels)[number];

/** One line per event on stderr (stdout belongs to a command's output): time, level, component, message, fields as JSON. */
export function createLogger(component: string, level: LogLevel, json = false): Logger {
  const { combine, timestamp, printf } = winston.format;
  const line = printf(
    ({ timestamp: time, level: severity, message, component: name, ...fields }) => {
      const rest = Object.keys(fields).length > 0 ? ` ${JSON.stringify(fields)}` : '';
      return `${String(time)} ${severity.padEnd(5)} [${String(name)}] ${String(message)}${rest}`;
    },
  );
  return winston.createLogger({
    level,
    defaultMeta: { component },
    format: combine(timestamp(), json ? winston.format.json() : line),
    transports: [new winston.transports.Console({ stderrLevels: [...logLevels] })],
  });
}
