// What the QEMU driver promises of layers and saved memory, with real guests of the image `tiny`.
import { snapshotsConformance } from '../../src/drivers/snapshots.conformance.ts';
import { qemuSubject } from '../support/qemu-subject.ts';

snapshotsConformance('the QEMU driver', qemuSubject);
