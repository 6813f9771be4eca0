// What the QEMU driver promises of devices that change while a guest runs, with real guests of the image `tiny`.
import { devicesConformance } from '../../src/drivers/devices.conformance.ts';
import { qemuSubject } from '../support/qemu-subject.ts';

devicesConformance('the QEMU driver', qemuSubject);
