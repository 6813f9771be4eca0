// placeholder while the page is being written
import { type StaticFile } from './server.ts';
export function referencePage(): string {
  return '';
}
export function referenceFiles(): StaticFile[] {
  return [];
}
